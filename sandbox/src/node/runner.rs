//! One run of a container: from its process's start to its end, however that comes about.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use rustix::process::Signal;
use tokio::sync::watch;

use super::container::memory_limit;
use super::probes::{Check, Shell, Tied, ask};
use crate::supervisor::Process;

/// How often a container's memory is compared with its limit.
const WEIGH: Duration = Duration::from_millis(500);

/// The size of a page of memory on every platform this runs on.
const PAGE: u64 = 4096;

/// How a run is to be ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// By its hook and `SIGTERM`, and by `SIGKILL` after this time.
    Gracefully(Duration),
    /// By `SIGKILL`.
    Now,
}

/// What is done before `SIGTERM` is sent.
#[derive(Clone, Debug)]
pub(super) enum PreStop {
    Ask(Check),
    Sleep(Duration),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) reason: &'static str,
}

/// Waits for the end of a process; ends it when told to, and when it uses more memory than its container may.
pub(super) async fn run(
    process: Process,
    container: Container,
    mut stop: watch::Receiver<Option<Stop>>,
    shell: Shell,
    pre_stop: Option<PreStop>,
) -> Exit {
    let mut process = Tied(process);
    let pid = process.0.pid();
    let mut killed_for_memory = false;
    let status = tokio::select! {
        status = process.0.wait() => status,
        () = exceeds(pid, memory_limit(&container)) => {
            killed_for_memory = true;
            end(&mut process, Stop::Now, &shell, None).await
        }
        how = asked(&mut stop) => tokio::select! {
            status = end(&mut process, how, &shell, pre_stop) => status,
            // A second thought: a pod that is taken away while it ends gets no further grace.
            _ = asked(&mut stop) => end(&mut process, Stop::Now, &shell, None).await,
        },
    };
    match status {
        Ok(status) => exit(status, killed_for_memory),
        Err(error) => {
            tracing::warn!(%error, container = %container.name, "waiting for a container's process");
            Exit {
                code: 255,
                reason: "ContainerStatusUnknown",
            }
        }
    }
}

/// Waits to be told; nobody left to tell is nobody left to run for.
async fn asked(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.changed().await {
        Ok(()) => stop.borrow_and_update().unwrap_or(Stop::Now),
        Err(_) => Stop::Now,
    }
}

async fn end(process: &mut Tied, how: Stop, shell: &Shell, pre_stop: Option<PreStop>) -> std::io::Result<ExitStatus> {
    if let Stop::Gracefully(grace) = how {
        let graceful = async {
            match pre_stop {
                Some(PreStop::Sleep(time)) => tokio::time::sleep(time).await,
                Some(PreStop::Ask(check)) => {
                    if let Err(message) = ask(&check, shell, grace).await {
                        tracing::debug!(%message, "a preStop hook failed");
                    }
                }
                None => {}
            }
            process.0.signal(Signal::TERM)?;
            process.0.wait().await
        };
        if let Ok(status) = tokio::time::timeout(grace, graceful).await {
            return status;
        }
    }
    process.0.signal(Signal::KILL)?;
    process.0.wait().await
}

fn exit(status: ExitStatus, killed_for_memory: bool) -> Exit {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Exit {
        code,
        reason: match (killed_for_memory, code) {
            (true, _) => "OOMKilled",
            (_, 0) => "Completed",
            _ => "Error",
        },
    }
}

/// Returns when a process has more memory in use than it may.
///
/// A limit of the address space would be exact, but servers reserve far more than they use and would not start.
async fn exceeds(pid: u32, limit: Option<u64>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut rhythm = tokio::time::interval(WEIGH);
    rhythm.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rhythm.tick().await;
        let sizes = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let resident: u64 = sizes
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .unwrap_or_default();
        if resident * PAGE > limit {
            return;
        }
    }
}
