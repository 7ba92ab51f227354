//! Images, mapped to programs of this machine.
//!
//! There are no containers here: an image is known by the last part of its repository name and stands for the program
//! that its official namesake runs. The programs are started through small scripts in a folder of the sandbox that
//! comes first in a container's `PATH`; they make a server listen on its pod's address, and a client ask there, where
//! in a container it would use all addresses or the loopback.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

/// Where programs are looked for beside `PATH`; Debian keeps some servers where a user's `PATH` does not lead.
const MORE_FOLDERS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];

/// The broker's image and program.
const BROKER: &str = "cache-broker";

/// What an image stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// The command that runs when the container names none.
    server: &'static str,
    /// The folder it starts in, if that is a volume.
    pub(super) work_dir: Option<&'static str>,
}

const IMAGES: [(&str, Image); 4] = [
    (
        BROKER,
        Image {
            server: BROKER,
            work_dir: None,
        },
    ),
    (
        "memcached",
        Image {
            server: "memcached",
            work_dir: None,
        },
    ),
    (
        "redis",
        Image {
            server: "redis-server",
            work_dir: Some("/data"),
        },
    ),
    (
        "valkey",
        Image {
            server: "valkey-server",
            work_dir: Some("/data"),
        },
    ),
];

/// The image's repository name without registry, folders, tag and digest.
fn repository(reference: &str) -> &str {
    let without_digest = reference.split('@').next().unwrap_or_default();
    let last = without_digest.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// What an image reference stands for; the error is what a kubelet would show as the reason it cannot be pulled.
pub(super) fn find(reference: &str) -> Result<Image, String> {
    let wanted = repository(reference);
    IMAGES
        .iter()
        .find(|(name, _)| *name == wanted)
        .map(|(_, image)| *image)
        .ok_or_else(|| {
            let known: Vec<_> = IMAGES.iter().map(|(name, _)| *name).collect();
            format!(
                "failed to pull image \"{reference}\": the sandbox runs programs of this machine and knows only the \
             images {}",
                known.join(", ")
            )
        })
}

/// The command line of a container, as the image's entry point would make it.
///
/// `command` replaces the entry point. Without it, `args` replace the server's own command line if their first is a
/// program, and are added to it if it is an option.
pub(super) fn command_line(image: Image, container: &Container) -> Vec<String> {
    let args = container.args.clone().unwrap_or_default();
    let mut command = container.command.clone().unwrap_or_default();
    // The broker's image has an entry point of its own, whatever is asked of it.
    let entered = image.server == BROKER
        || args
            .first()
            .is_none_or(|first| first.starts_with('-') || first.ends_with(".conf"));
    if command.is_empty() && entered {
        command.push(image.server.to_owned());
    }
    command.extend(args);
    command
}

/// A program that scripts stand in for, under each of its names.
struct Program {
    real: &'static str,
    names: &'static [&'static str],
    package: &'static str,
    script: &'static str,
}

const SERVERS_AND_CLIENTS: [Program; 3] = [
    Program {
        real: "memcached",
        names: &["memcached"],
        package: "memcached",
        script: r#"#!/bin/sh
for arg in "$@"; do
  case "$arg" in -l* | --listen* | -s* | --unix-socket* | -V | --version | -h | --help) exec "@REAL@" "$@" ;; esac
done
exec "@REAL@" "$@" -l "$POD_IP"
"#,
    },
    Program {
        real: "redis-server",
        names: &["redis-server", "valkey-server"],
        package: "redis-server",
        script: r#"#!/bin/sh
for arg in "$@"; do
  case "$arg" in --bind | -v | --version | -h | --help) exec "@REAL@" "$@" ;; esac
done
exec "@REAL@" "$@" --bind "$POD_IP"
"#,
    },
    Program {
        real: "redis-cli",
        names: &["redis-cli", "valkey-cli"],
        package: "redis-tools",
        script: r#"#!/bin/sh
for arg in "$@"; do
  case "$arg" in -h | -u | -s | --version | --help) exec "@REAL@" "$@" ;; esac
done
exec "@REAL@" -h "$POD_IP" "$@"
"#,
    },
];

/// Starts the broker as its image does: it listens on the pod's address, and finds its service account, which clients of
/// Kubernetes look for at a fixed path, by a kubeconfig that leads to the same token and certificate.
const BROKER_SCRIPT: &str = r#"#!/bin/sh
if [ -n "${SERVICE_ACCOUNT_FOLDER-}" ]; then
  cat > "$HOME/kubeconfig" << END
{"apiVersion": "v1", "kind": "Config", "current-context": "pod",
 "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod"}}],
 "clusters": [{"name": "pod", "cluster": {"server": "@SERVER@", "certificate-authority": "$SERVICE_ACCOUNT_FOLDER/ca.crt"}}],
 "users": [{"name": "pod", "user": {"tokenFile": "$SERVICE_ACCOUNT_FOLDER/token"}}]}
END
  export KUBECONFIG="$HOME/kubeconfig" USE_LOCAL_KUBE_CONTEXT=true
fi
export LISTEN_ADDRESS="$POD_IP" HEALTH_ADDRESS="$POD_IP"
exec "@REAL@" "$@"
"#;

/// The folder of scripts.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    folder: PathBuf,
    path: String,
}

impl Programs {
    /// Writes the scripts for the programs this machine has.
    pub(super) fn install(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let inherited = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{inherited}:{}", folder.display(), MORE_FOLDERS.join(":"));
        let programs = Self { folder, path };
        for program in &SERVERS_AND_CLIENTS {
            programs.write(program)?;
        }
        Ok(programs)
    }

    /// Has the broker's image stand for a program. It is copied: pods run as a user who need not see where it is.
    pub(super) fn install_broker(&self, program: &Path, api_server: &str) -> io::Result<()> {
        let copy = self.folder.join("cache-broker.real");
        fs::copy(program, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        let script = BROKER_SCRIPT
            .replace("@SERVER@", api_server)
            .replace("@REAL@", &copy.to_string_lossy());
        let path = self.folder.join(BROKER);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
    }

    fn write(&self, program: &Program) -> io::Result<bool> {
        let searched = self.path.split(':').skip(1).filter(|folder| !folder.is_empty());
        let real = searched
            .map(|folder| Path::new(folder).join(program.real))
            .find(|path| path.is_file());
        let Some(real) = real else { return Ok(false) };
        for name in program.names {
            let script = self.folder.join(name);
            // Written beside and moved into place, so that no container ever starts half a script.
            let new = self.folder.join(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
            fs::write(&new, program.script.replace("@REAL@", &real.to_string_lossy()))?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
            fs::rename(&new, &script)?;
        }
        Ok(true)
    }

    /// A container's `PATH`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Makes sure that the program behind a command exists; one installed since the start is found.
    ///
    /// The error says what is missing and how to get it.
    pub(super) fn ensure(&self, command: &str) -> Result<(), String> {
        if command == BROKER && !self.folder.join(BROKER).is_file() {
            return Err("failed to pull image: this sandbox was not told of a broker's program".to_owned());
        }
        let Some(program) = SERVERS_AND_CLIENTS
            .iter()
            .find(|program| program.names.contains(&command))
        else {
            return Ok(());
        };
        if self.folder.join(command).is_file() {
            return Ok(());
        }
        match self.write(program) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "{} is not installed on this machine, so {command} cannot run; install it (Debian: apt-get install {})",
                program.real, program.package
            )),
            Err(error) => Err(format!("writing the script that starts {command}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_repository_name() {
        for (reference, server) in [
            ("memcached", "memcached"),
            ("memcached:1.6.38-alpine", "memcached"),
            ("docker.io/library/redis:7", "redis-server"),
            ("localhost:5000/mirror/redis@sha256:00ff", "redis-server"),
            ("ghcr.io/valkey/valkey:8.1", "valkey-server"),
        ] {
            assert_eq!(find(reference).unwrap().server, server, "{reference}");
        }
        for reference in ["nginx", "redis-exporter:1", "memcached/nginx:2", ""] {
            let message = find(reference).unwrap_err();
            assert!(
                message.contains(&format!("\"{reference}\"")) && message.contains("memcached"),
                "{message}"
            );
        }
    }

    #[test]
    fn the_entry_point_adds_the_server_to_bare_options() {
        let image = find("redis:7").unwrap();
        for (command, args, expected) in [
            (vec![], vec![], vec!["redis-server"]),
            (vec![], vec!["--port", "7"], vec!["redis-server", "--port", "7"]),
            (vec![], vec!["/etc/r.conf"], vec!["redis-server", "/etc/r.conf"]),
            (vec![], vec!["sh", "-c", "exit 3"], vec!["sh", "-c", "exit 3"]),
            (
                vec!["redis-server"],
                vec!["--port", "7"],
                vec!["redis-server", "--port", "7"],
            ),
            (vec!["sh", "-c"], vec!["exit 3"], vec!["sh", "-c", "exit 3"]),
        ] {
            let owned = |words: &[&str]| (!words.is_empty()).then(|| words.iter().map(|w| (*w).to_owned()).collect());
            let container = Container {
                command: owned(&command),
                args: owned(&args),
                ..Container::default()
            };
            assert_eq!(command_line(image, &container), expected);
        }
    }

    #[test]
    fn a_script_makes_the_server_listen_on_the_pods_address() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::install(folder.path().join("bin")).unwrap();
        for (program, option) in [("memcached", "-l"), ("redis-server", "--bind")] {
            programs.ensure(program).unwrap();
            let script = fs::read_to_string(folder.path().join("bin").join(program)).unwrap();
            assert!(script.contains(&format!("\"$@\" {option} \"$POD_IP\"")), "{script}");
        }
        assert!(programs.ensure("sh").is_ok(), "other programs are none of its business");
    }
}
