//! Whatever a program does, it does not outlive its sandbox.

// The settings for tests do not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{is_running, number_in, processes_of, wait_for};
use rustix::process::Signal;
use sandbox::address::Addresses;
use sandbox::supervisor::{Process, Program, Supervisor, User};

fn shell(supervisor: &Supervisor, name: &str, script: &str) -> Process {
    supervisor
        .spawn(&Program::new(name, "sh").args(["-c", script]))
        .unwrap()
}

#[tokio::test]
async fn a_dropped_sandbox_leaves_no_process_and_no_folder() {
    let supervisor = Supervisor::start().unwrap();
    let dir = supervisor.dir().to_owned();
    shell(&supervisor, "family", "sleep 1000 & echo $! > child; wait");
    shell(
        &supervisor,
        "deaf",
        "trap '' INT TERM QUIT; echo $$ > deaf; while :; do sleep 1; done",
    );
    let (child, deaf) = (number_in(&dir.join("child")), number_in(&dir.join("deaf")));
    drop(supervisor);
    assert!(!is_running(child) && !is_running(deaf));
    assert_eq!(processes_of(&dir), Vec::<u32>::new());
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_process_that_left_its_group_is_found() {
    let supervisor = Supervisor::start().unwrap();
    let dir = supervisor.dir().to_owned();
    let mut leader = shell(
        &supervisor,
        "leader",
        "setsid sh -c 'echo $$ > stray; exec sleep 1000' & while ! [ -s stray ]; do sleep 0.01; done",
    );
    leader.wait().await.unwrap();
    let stray = number_in(&dir.join("stray"));
    assert!(is_running(stray));
    supervisor.close();
    assert!(!is_running(stray));
}

#[tokio::test]
async fn a_process_that_overwrites_its_environment_is_found() {
    let supervisor = Supervisor::start().unwrap();
    let home = supervisor.make_dir("redis", User::Unprivileged).unwrap();
    let mut redis = Program::new("redis", "redis-server")
        .args(["--port", "0", "--unixsocket", "redis.sock"])
        .user(User::Unprivileged);
    redis.dir = Some(home.clone());
    let process = supervisor.spawn(&redis).unwrap();
    wait_for("redis to listen", || home.join("redis.sock").exists().then_some(()));
    assert!(is_running(process.pid()));
    supervisor.close();
    assert!(!is_running(process.pid()));
}

#[tokio::test]
async fn a_program_gets_the_last_signal_it_asked_for() {
    let supervisor = Supervisor::start().unwrap();
    let outside = tempfile::tempdir().unwrap();
    // A shell cannot trap what was ignored when it started, as SIGQUIT is in the background of another.
    let script = format!(
        "trap 'echo bye > {0}/said; exit' USR1; sleep 1000 & echo $$ > ready; wait",
        outside.path().display()
    );
    let program = Program::new("polite", "sh")
        .args(["-c", &script])
        .last_signal(Signal::USR1);
    supervisor.spawn(&program).unwrap();
    number_in(&supervisor.dir().join("ready"));
    supervisor.close();
    assert_eq!(std::fs::read_to_string(outside.path().join("said")).unwrap(), "bye\n");
}

#[tokio::test]
async fn a_recycled_pid_is_left_alone() {
    let supervisor = Supervisor::start().unwrap();
    let mut stranger = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    let record = supervisor.dir().join("pids").join(stranger.id().to_string());
    std::fs::write(record, "1 9\n").unwrap();
    supervisor.close();
    assert_eq!(stranger.try_wait().unwrap(), None);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn nothing_starts_in_a_closed_sandbox() {
    let supervisor = Supervisor::start().unwrap();
    supervisor.close();
    assert!(supervisor.spawn(&Program::new("late", "true")).is_err());
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let supervisor = Supervisor::start().unwrap();
    let mut process = shell(&supervisor, "parent", "sleep 1000 & echo $! > child; exit 3");
    assert_eq!(process.wait().await.unwrap().code(), Some(3));
    let child = number_in(&supervisor.dir().join("child"));
    wait_for("the child's end", || (!is_running(child)).then_some(()));
    assert_eq!(process.try_wait().unwrap().and_then(|status| status.code()), Some(3));
    process.signal(Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_program_that_will_not_stop_is_killed() {
    let supervisor = Supervisor::start().unwrap();
    let process = shell(
        &supervisor,
        "deaf",
        "trap '' TERM; echo $$ > ready; while :; do sleep 0.01; done",
    );
    number_in(&supervisor.dir().join("ready"));
    let status = process.stop(Duration::from_millis(50)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[tokio::test]
async fn a_program_that_does_not_exist_ends_with_127() {
    let supervisor = Supervisor::start().unwrap();
    let mut process = supervisor.spawn(&Program::new("nothing", "/no/such/program")).unwrap();
    assert_eq!(process.wait().await.unwrap().code(), Some(127));
}

#[tokio::test]
async fn unprivileged_programs_do_not_run_as_root() {
    let supervisor = Supervisor::start().unwrap();
    let program = Program::new("whoami", "id").args(["-u"]).user(User::Unprivileged);
    supervisor.spawn(&program).unwrap().wait().await.unwrap();
    let user = std::fs::read_to_string(supervisor.log_of("whoami")).unwrap();
    assert_ne!(user.trim(), "0");
}

#[tokio::test]
async fn the_slot_stays_claimed_until_the_last_process_is_gone() {
    let addresses = Addresses::claim().unwrap();
    let (first, slot) = (addresses.control_plane(), addresses.slot());
    let supervisor = Supervisor::start_on(&addresses).unwrap();
    drop(addresses);
    assert!(TcpListener::bind((first, 4444)).is_err(), "slot {slot} was given away");
    supervisor.close();
    assert!(!Path::new(supervisor.dir()).exists());
    assert!(TcpListener::bind((first, 4444)).is_ok(), "slot {slot} is still claimed");
}
