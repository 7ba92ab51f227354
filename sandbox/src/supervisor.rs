//! Processes and files of one sandbox, and the certainty that none outlives it.
//!
//! A sandbox has one folder and one *watchdog*: a shell that waits at the end of a pipe whose other end this process
//! holds. When the pipe closes, because the sandbox was dropped or because its process was killed, the watchdog ends
//! every process that was started under the folder and removes the folder. There is no other way of ending: an
//! orderly stop and a `kill -9` take the same path.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::address::Addresses;

/// The user and group that servers run as when the sandbox itself runs as root (`nobody`, `nogroup` on Debian).
/// PostgreSQL's `initdb` refuses root.
const UNPRIVILEGED: u32 = 65534;

/// The environment variable that holds the folder of the sandbox a process belongs to.
const MARK: &str = "SANDBOX_DIR";

/// Waits for the pipe on its standard input to close, then ends the processes of the folder `$1` and removes it. `$2`
/// is the unprivileged user, if there is one.
///
/// Each file of `$1/pids` is named by the pid of a group leader and holds its start time and the signal it is to be
/// ended with; pid and start time together are never used twice. Processes that left their group are found by the
/// `SANDBOX_DIR` in their environment. It cannot be the only mark: Redis and PostgreSQL's children overwrite theirs.
///
/// `closing` is written before the pids are read; a starting process records its pid before it looks for `closing`,
/// so one of the two always sees the other.
///
/// Its standard output is only held, to be let go when the last process is gone.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
exec 9>&1 > /dev/null
cat
dir=$1 unprivileged=$2
: > "$dir/closing"

as_unprivileged() {
  [ "$unprivileged" ] && setpriv --reuid="$unprivileged" --regid="$unprivileged" --clear-groups -- "$@"
}

# Sends $1, or to each process the signal it asked for; fails if there was none to send it to.
leaders() {
  found=1
  for file in "$dir"/pids/*; do
    read -r start last < "$file" && read -r stat < "/proc/${file##*/}/stat" || continue
    is_running "${stat##*) }" "$start" || continue
    found=0
    kill "-${1:-$last}" "-${file##*/}" # dash knows no --
  done
  return $found
}
is_running() { start=$2; set -- $1; [ "$1" != Z ] && [ "${20}" = "$start" ]; }

kill_strays='pids=$(grep -lszxF "SANDBOX_DIR=$1" /proc/[0-9]*/environ)
[ "$pids" ] || exit 1
for pid in $pids; do pid=${pid#/proc/}; kill -9 "${pid%/environ}"; done
exit 0'
# Without CAP_SYS_PTRACE root cannot read the environment of what belongs to the unprivileged user.
strays() { sh -c "$kill_strays" sh "$dir" || as_unprivileged sh -c "$kill_strays" sh "$dir"; }

leaders
tries=40; while leaders 0 && [ $((tries -= 1)) -gt 0 ]; do sleep 0.05; done
tries=40; while { leaders 9; led=$?; strays || [ $led = 0 ]; } && [ $((tries -= 1)) -gt 0 ]; do sleep 0.05; done

# A PostgreSQL that was killed leaves its lock file, which names its segment of System V shared memory.
for file in $(find "$dir" -name postmaster.pid); do
  segment=$(awk 'NR == FNR { if (FNR == 1) pid = $1; if (FNR == 7) id = $2; next }
    pid && $2 == id && $5 == pid { print id }' "$file" /proc/sysvipc/shm)
  [ "$segment" ] && { ipcrm -m "$segment" || as_unprivileged ipcrm -m "$segment"; }
done
tries=10; until rm -rf "$dir" || [ $((tries -= 1)) = 0 ]; do sleep 0.05; done
"#;

/// Records its pid, its start time and the signal `$1`, gives up if the sandbox of folder `$0` is closing, and becomes
/// the program it was given.
const LAUNCHER: &str = r#"
dir=$0 last=$1; shift
record() { set -- ${stat##*) }; echo "${20} $last" > "$dir/pids/$$"; }
read -r stat < "/proc/$$/stat" && record && [ ! -e "$dir/closing" ] && exec "$@"
exit 126
"#;

/// Whom a program runs as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum User {
    /// The user who runs the sandbox.
    #[default]
    Own,
    /// An unprivileged user if the sandbox runs as root, else the user who runs it.
    Unprivileged,
}

/// A program to start under a [`Supervisor`].
#[derive(Clone, Debug)]
pub struct Program {
    /// Names the log file `logs/<name>.log`; unique among the programs that run at one time.
    pub name: String,
    /// What to run: a path, or a name that is looked up in `PATH`.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the inherited environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whom it runs as.
    pub user: User,
    /// Its working directory; the sandbox's folder if absent.
    pub dir: Option<PathBuf>,
    /// Where its standard output and error go; `logs/<name>.log` if absent.
    pub log: Option<PathBuf>,
    /// What it is ended with when the sandbox ends. `SIGKILL`, unless it has something outside the folder to clear up.
    pub last_signal: Signal,
}

impl Program {
    /// A program run as the user of the sandbox, without arguments.
    pub fn new(name: impl Into<String>, command: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            command: command.into(),
            args: Vec::new(),
            env: Vec::new(),
            user: User::Own,
            dir: None,
            log: None,
            last_signal: Signal::KILL,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets what it is ended with when the sandbox ends.
    #[must_use]
    pub fn last_signal(mut self, signal: Signal) -> Self {
        self.last_signal = signal;
        self
    }

    /// Sets whom it runs as.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }
}

/// Owns the folder and the processes of one sandbox. Clones share them; when the last one is dropped, all of it goes.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    watchdog: Mutex<Option<std::process::Child>>,
}

impl Inner {
    fn close(&self) {
        let mut watchdog = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut watchdog) = watchdog.take() {
            drop(watchdog.stdin.take());
            if let Err(error) = watchdog.wait() {
                tracing::warn!(%error, dir = %self.dir.display(), "waiting for the sandbox's watchdog");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Supervisor {
    /// Makes the folder, below the system's folder for temporary files, and starts the watchdog.
    ///
    /// # Errors
    /// When the folder cannot be made or `sh` cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::launch(Stdio::null())
    }

    /// Like [`Supervisor::start`], and keeps the claim on the addresses until the last process is gone, so that the
    /// next sandbox never finds a server of a killed one on its addresses.
    ///
    /// # Errors
    /// When the folder cannot be made, `sh` cannot be started or the claim cannot be shared.
    pub fn start_on(addresses: &Addresses) -> io::Result<Self> {
        Self::launch(Stdio::from(addresses.share_claim()?))
    }

    fn launch(held: Stdio) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("cache-broker-sandbox-{}", uuid::Uuid::new_v4().simple()));
        // Others may pass through: the unprivileged user has folders below.
        fs::DirBuilder::new().mode(0o711).create(&dir)?;
        let unprivileged = if drops_privileges(User::Unprivileged) {
            UNPRIVILEGED.to_string()
        } else {
            String::new()
        };
        let watchdog = ["pids", "logs"]
            .iter()
            .try_for_each(|part| fs::create_dir(dir.join(part)))
            .and_then(|()| {
                Command::new("sh")
                    .args(["-c", WATCHDOG, "sandbox-watchdog"])
                    .arg(&dir)
                    .arg(unprivileged)
                    .env_remove(MARK)
                    .current_dir("/")
                    .stdin(Stdio::piped())
                    .stdout(held)
                    .stderr(Stdio::null())
                    .process_group(0)
                    .spawn()
            });
        match watchdog {
            Ok(watchdog) => Ok(Self(Arc::new(Inner {
                dir,
                watchdog: Mutex::new(Some(watchdog)),
            }))),
            Err(error) => {
                let _ = fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    /// Ends every process and removes the folder, though clones of this remain; they can start nothing any more.
    /// Waits until it is done.
    pub fn close(&self) {
        self.0.close();
    }

    /// The sandbox's folder; gone when the sandbox is.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Makes a folder below the sandbox's own that programs of `user` may write to.
    ///
    /// # Errors
    /// When it cannot be made or given to that user.
    pub fn make_dir(&self, relative: impl AsRef<Path>, user: User) -> io::Result<PathBuf> {
        // Part by part, so that a late caller never brings back the folder of a sandbox that is gone.
        let mut path = self.0.dir.clone();
        for part in relative.as_ref() {
            path.push(part);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        self.give(&path, user)?;
        Ok(path)
    }

    /// Gives a file or folder to the user that programs of `user` run as.
    ///
    /// # Errors
    /// When its owner cannot be changed.
    pub fn give(&self, path: &Path, user: User) -> io::Result<()> {
        if drops_privileges(user) {
            chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
        }
        Ok(())
    }

    /// The path of a program's log file.
    pub fn log_of(&self, name: &str) -> PathBuf {
        self.0.dir.join("logs").join(format!("{name}.log"))
    }

    /// Starts a program in a process group of its own, its output appended to its log file.
    ///
    /// # Errors
    /// When its log cannot be opened or the launcher cannot be started. A program that does not exist shows as a
    /// process that ends with code 127.
    pub fn spawn(&self, program: &Program) -> io::Result<Process> {
        let log_path = program.log.clone().unwrap_or_else(|| self.log_of(&program.name));
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut command = Command::new("sh");
        command.args(["-c", LAUNCHER]).arg(&self.0.dir);
        command.arg(program.last_signal.as_raw().to_string());
        if drops_privileges(program.user) {
            command.args(["setpriv", "--clear-groups"]);
            command
                .args([format!("--reuid={UNPRIVILEGED}"), format!("--regid={UNPRIVILEGED}")])
                .arg("--");
        }
        command
            .arg(&program.command)
            .args(&program.args)
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            .env(MARK, &self.0.dir)
            .current_dir(program.dir.as_deref().unwrap_or(&self.0.dir))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = tokio::process::Command::from(command).spawn()?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other(format!("{} ended as it was started", program.name)))?;
        Ok(Process {
            name: program.name.clone(),
            pid,
            child,
            ended: false,
            pid_file: self.0.dir.join("pids").join(pid.as_raw_nonzero().to_string()),
            log: log_path,
        })
    }
}

fn drops_privileges(user: User) -> bool {
    user == User::Unprivileged && rustix::process::geteuid().is_root()
}

/// A running program. Dropping it does not end it; the sandbox's end does.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: tokio::process::Child,
    ended: bool,
    pid_file: PathBuf,
    log: PathBuf,
}

impl Process {
    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, which is also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal to its process group. One that has ended already is no error.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        match kill_process_group(self.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end. What is left of its process group is killed then.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.forget();
        Ok(status)
    }

    /// Its exit status if it has ended. What is left of its process group is killed then.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            self.forget();
        }
        Ok(status)
    }

    /// Asks it to end with `SIGTERM`, waits for `grace`, then kills it.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub async fn stop(mut self, grace: std::time::Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status;
        }
        self.signal(Signal::KILL)?;
        self.wait().await
    }

    fn forget(&mut self) {
        if self.ended {
            return;
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.ended = true;
        if let Err(error) = fs::remove_file(&self.pid_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, name = %self.name, "forgetting an ended process");
        }
    }
}
