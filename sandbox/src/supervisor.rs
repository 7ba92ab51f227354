//! Processes and files of one sandbox, and the certainty that none outlives it.
//!
//! A sandbox has one folder and one *watchdog*: a shell that waits at the end of a pipe whose other end this process
//! holds. When the pipe closes, because the sandbox was dropped or because its process was killed, the watchdog ends
//! every process that was started under the folder and removes the folder. There is no other way of ending: an
//! orderly stop and a `kill -9` take the same path.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

/// The user and group that servers run as when the sandbox itself runs as root (`nobody`, `nogroup` on Debian).
/// PostgreSQL's `initdb` refuses root.
const UNPRIVILEGED: u32 = 65534;

/// Waits for the pipe on its standard input to close, then ends the processes recorded in `$1/pids` and removes `$1`.
///
/// A process counts as ours only if its environment still carries our folder, so a recycled pid is never hit.
/// `closing` is written before the pids are read; a starting process records its pid before it looks for `closing`,
/// so one of the two always sees the other.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
cat > /dev/null
: > "$1/closing"
ours() { tr '\0' '\n' < "/proc/$1/environ" 2> /dev/null | grep -qxF "SANDBOX_DIR=$2"; }
each() { for f in "$1"/pids/*; do p=${f##*/}; [ "$p" != '*' ] && ours "$p" "$1" && kill "-$2" -- "-$p" 2> /dev/null && left=1; done; }
left=0; each "$1" INT
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  left=0; each "$1" 0; [ "$left" = 0 ] && break; sleep 0.1
done
each "$1" KILL
for i in 1 2 3 4 5 6 7 8 9 10; do
  left=0; each "$1" KILL; [ "$left" = 0 ] && break; sleep 0.1
done
rm -rf "$1"
"#;

/// Records its own pid, gives up if the sandbox is closing, and becomes the program it was given.
const LAUNCHER: &str = r#": > "$0/pids/$$"; [ -e "$0/closing" ] && exit 1; exec "$@""#;

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
    watchdog: Mutex<std::process::Child>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let watchdog = self.watchdog.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(watchdog.stdin.take());
        if let Err(error) = watchdog.wait() {
            tracing::warn!(%error, dir = %self.dir.display(), "waiting for the sandbox's watchdog");
        }
    }
}

impl Supervisor {
    /// Makes the folder, below the system's folder for temporary files, and starts the watchdog.
    ///
    /// # Errors
    /// When the folder cannot be made or `sh` cannot be started.
    pub fn start() -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("cache-broker-sandbox-{}", uuid::Uuid::new_v4().simple()));
        for part in ["pids", "logs"] {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        fs::set_permissions(dir.join("pids"), fs::Permissions::from_mode(0o1777))?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self(Arc::new(Inner {
            dir,
            watchdog: Mutex::new(watchdog),
        })))
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
        let path = self.0.dir.join(relative);
        fs::create_dir_all(&path)?;
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
            .env("SANDBOX_DIR", &self.0.dir)
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
        match kill_process_group(self.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.forget();
        Ok(status)
    }

    /// Its exit status if it has ended.
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

    fn forget(&self) {
        if let Err(error) = fs::remove_file(&self.pid_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, name = %self.name, "forgetting an ended process");
        }
    }
}
