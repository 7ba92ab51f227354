//! Programs the sandbox runs and does not bring along.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{control_plane, postgres};

/// A program that is not on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The program.
    pub program: &'static str,
    /// How to install it.
    pub install: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.program, self.install)
    }
}

/// Programs a part of the sandbox needs, by the name they are found in `PATH` under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// What every sandbox needs: Postgres, and what starts and ends processes.
    Base,
    /// What building the control plane needs, unless it is built.
    ControlPlane,
    /// What the caches are made of.
    Caches,
    /// What people use at the sandbox's shell.
    Shell,
}

const DEBIAN_UTILITIES: &str = "sudo apt install util-linux";

/// The programs that are needed and not there.
pub fn missing(needs: &[Needs]) -> Vec<Missing> {
    let mut programs = Vec::new();
    if needs.contains(&Needs::Base) {
        programs.push(("grep", "sudo apt install grep"));
        programs.push(("ipcrm", DEBIAN_UTILITIES));
        if rustix::process::geteuid().is_root() {
            programs.push(("setpriv", DEBIAN_UTILITIES));
        }
    }
    if needs.contains(&Needs::ControlPlane) && control_plane::built().is_none() {
        programs.push(("flock", DEBIAN_UTILITIES));
        programs.push(("go", "Go 1.26 or later, from https://go.dev/dl/"));
    }
    if needs.contains(&Needs::Caches) {
        programs.push(("memcached", "sudo apt install memcached"));
        programs.push(("redis-server", "sudo apt install redis-server"));
    }
    if needs.contains(&Needs::Shell) {
        programs.push((
            "kubectl",
            "https://kubernetes.io/docs/tasks/tools/install-kubectl-linux/, or sudo snap install kubectl --classic",
        ));
        programs.push(("redis-cli", "sudo apt install redis-tools"));
    }
    let mut missing: Vec<_> = programs
        .into_iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(program, install)| Missing { program, install })
        .collect();
    if needs.contains(&Needs::Base) && postgres::binaries().is_none() {
        missing.push(Missing {
            program: "initdb and postgres",
            install: "sudo apt install postgresql",
        });
    }
    missing
}

/// The path of a program that `PATH` leads to.
pub fn find(program: &str) -> Option<PathBuf> {
    folders()
        .map(|folder| folder.join(program))
        .find(|path| is_program(path))
}

pub(crate) fn folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

pub(crate) fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_there_and_not_what_is_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
    }

    #[test]
    fn a_missing_program_comes_with_its_install_command() {
        let missing = Missing {
            program: "memcached",
            install: "sudo apt install memcached",
        };
        assert_eq!(missing.to_string(), "memcached: sudo apt install memcached");
    }
}
