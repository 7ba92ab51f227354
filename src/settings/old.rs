//! The command lines and variables of the broker that this one replaces, which was written in Go with glog's flags.

use std::ffi::OsString;
use std::path::Path;

/// What the programs were called in its image. They are names of this one, where an image has no shell.
const START: &str = "start.sh";
const START_BACKGROUND: &str = "start-background.sh";

/// A setting of the old broker, and what became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old {
    /// As it was spelled.
    pub(super) name: &'static str,
    /// What it is today, for people.
    pub(super) now: &'static str,
}

/// All of them.
pub(super) const OLD: [Old; 22] = [
    Old {
        name: "`DATABASE_URL`",
        now: "the same. TLS unless `?sslmode=disable`; the tables are new ones, in a schema of their own",
    },
    Old {
        name: "`NAME_PREFIX`",
        now: "the same, checked against what ElastiCache takes",
    },
    Old {
        name: "`AWS_REGION`",
        now: "the same; without it no ElastiCache plan is offered",
    },
    Old {
        name: "`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`",
        now: "the same, and no longer needed: any of the AWS SDK's ways to credentials, such as a role of the service account",
    },
    Old {
        name: "`ELASTICACHE_SECURITY_GROUP`",
        now: "the same, for plans that name none",
    },
    Old {
        name: "`REDIS_SUBNET_GROUP`, `MEMCACHED_SUBNET_GROUP`",
        now: "the same, for plans that name none",
    },
    Old {
        name: "`USE_KUBERNETES`",
        now: "the same: whether plans in the cluster are offered. The operator needs a cluster in any case",
    },
    Old {
        name: "`USE_LOCAL_KUBE_CONTEXT`",
        now: "the same",
    },
    Old {
        name: "`PORT`",
        now: "the same; 8443 if absent",
    },
    Old {
        name: "`RETRY_WEBHOOKS`",
        now: "the same: tried again, now for a day with growing pauses",
    },
    Old {
        name: "`STACKIMPACT`",
        now: "nothing; a warning says so. Metrics are at `/metrics` of the health port",
    },
    Old {
        name: "`GLOG_*` (`GLOG_v`, `GLOG_stderrthreshold`, `GLOG_minloglevel`)",
        now: "the level of `RUST_LOG`, where that is not set",
    },
    Old {
        name: "`-insecure`",
        now: "`--insecure`: plain HTTP. Callers must still authenticate, unless `--insecure-no-auth` is typed",
    },
    Old {
        name: "`-background-tasks`",
        now: "`--role=operator`",
    },
    Old {
        name: "`-logtostderr`, `-alsologtostderr`",
        now: "nothing: logs go to standard error",
    },
    Old {
        name: "`-stderrthreshold`, `-v`",
        now: "the level of `RUST_LOG`, where that is not set",
    },
    Old {
        name: "`-log_dir`, `-log_backtrace_at`, `-vmodule`",
        now: "nothing",
    },
    Old {
        name: "`-port`",
        now: "`--port`",
    },
    Old {
        name: "`-authenticate-k8s-token`",
        now: "`--osb-token-review`",
    },
    Old {
        name: "`-tls-cert-file`, `-tls-private-key-file`",
        now: "`--tls-cert-file`, `--tls-key-file`",
    },
    Old {
        name: "`-tlsCert`, `-tlsKey` (the certificate itself, base64)",
        now: "refused: put them into files",
    },
    Old {
        name: "`start.sh`, `start-background.sh`",
        now: "names of the program in the image: the API, over plain HTTP unless `TLS_CERT_FILE` is set, and the operator",
    },
];

/// Puts a command line into today's spelling. `variable` looks a variable of the environment up.
pub(super) fn normalized(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<OsString> {
    let mut arguments = arguments.into_iter().peekable();
    let program = arguments.next().unwrap_or_default();
    let mut old = Seen::default();
    let mut normal = vec![program.clone()];
    let named = |path: &OsString| Path::new(path).file_name()?.to_str().map(str::to_owned);
    // An image with an entry point is given the old program's name as its first argument.
    let is_name = |path: &OsString| named(path).is_some_and(|name| [START, START_BACKGROUND].contains(&name.as_str()));
    let program = arguments.next_if(is_name).unwrap_or(program);
    match named(&program).as_deref() {
        Some(START) if variable("TLS_CERT_FILE").is_none() => normal.push("--insecure".into()),
        Some(START_BACKGROUND) => normal.push("--background-tasks".into()),
        _ => {}
    }
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str().filter(|text| text.starts_with('-')) else {
            normal.push(argument);
            continue;
        };
        let name = text.trim_start_matches('-');
        let (name, value) = name
            .split_once('=')
            .map_or((name, None), |(name, value)| (name, Some(value.to_owned())));
        let mut value_of =
            |value: Option<String>| value.or_else(|| Some(arguments.next()?.to_string_lossy().into_owned()));
        let flag = |value: &Option<String>| value.as_deref().is_none_or(|value| ["true", "1", "t"].contains(&value));
        match name {
            "background-tasks" | "insecure" => {
                if flag(&value) && !normal.contains(&format!("--{name}").into()) {
                    normal.push(format!("--{name}").into());
                }
            }
            "authenticate-k8s-token" => normal.push(format!("--osb-token-review={}", flag(&value)).into()),
            "logtostderr" | "alsologtostderr" => {}
            "log_dir" | "log_backtrace_at" | "vmodule" => {
                value_of(value);
            }
            "stderrthreshold" => old.threshold(value_of(value).as_deref()),
            // A single hyphen: `--v` would be no flag of either.
            "v" if value.is_some() || !text.starts_with("--") => old.verbosity(value_of(value).as_deref()),
            "tls-private-key-file" => {
                normal.push("--tls-key-file".into());
                normal.extend(value_of(value).map(OsString::from));
            }
            // Go takes one hyphen for what clap takes two.
            "port" | "tls-cert-file" if !text.starts_with("--") => {
                normal.push(format!("--{name}").into());
                normal.extend(value_of(value).map(OsString::from));
            }
            _ => normal.push(argument),
        }
    }
    for name in ["GLOG_stderrthreshold", "GLOG_minloglevel"] {
        old.threshold(variable(name).as_deref());
    }
    old.verbosity(variable("GLOG_v").as_deref());
    let said = normal
        .iter()
        .any(|argument| argument.to_string_lossy().starts_with("--log="));
    if let Some(level) = old.level.filter(|_| !said && variable("RUST_LOG").is_none()) {
        normal.push(format!("--log={level}").into());
    }
    normal
}

/// What glog's flags say of the level.
#[derive(Default)]
struct Seen {
    level: Option<&'static str>,
}

impl Seen {
    /// The least severity that is written, by number or name.
    fn threshold(&mut self, value: Option<&str>) {
        let level = match value.map(str::to_ascii_uppercase).as_deref() {
            Some("0" | "INFO") => "info",
            Some("1" | "WARNING") => "warn",
            Some("2" | "3" | "ERROR" | "FATAL") => "error",
            _ => return,
        };
        self.level.get_or_insert(level);
    }

    /// More than severities, and it counts before them.
    fn verbosity(&mut self, value: Option<&str>) {
        match value.and_then(|value| value.parse::<u8>().ok()) {
            None | Some(0) => {}
            Some(1..=3) => self.level = Some("debug"),
            Some(_) => self.level = Some("trace"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CommandLine, Role};
    use super::*;
    use clap::Parser;

    fn read_with(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> CommandLine {
        let arguments = std::iter::once(program)
            .chain(arguments.iter().copied())
            .map(OsString::from);
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        CommandLine::try_parse_from(normalized(arguments, variable)).unwrap()
    }

    #[test]
    fn takes_the_old_brokers_command_lines() {
        let read = |arguments: &[&str]| read_with("elasticache-broker", arguments, &[]).settings;
        let settings = read(&[
            "-insecure",
            "-logtostderr=1",
            "-stderrthreshold",
            "0",
            "-background-tasks",
        ]);
        assert!(settings.insecure && settings.background_tasks);
        assert_eq!(settings.log, "info");
        let settings = read(&["-insecure=false", "-logtostderr", "-v=4", "-port", "9000"]);
        assert!(!settings.insecure && !settings.background_tasks);
        assert_eq!((settings.log.as_str(), settings.port), ("trace", 9000));
        let settings = read(&[
            "-stderrthreshold=WARNING",
            "-log_dir",
            "/tmp",
            "-tls-cert-file=/c",
            "-tls-private-key-file",
            "/k",
        ]);
        assert_eq!(settings.log, "warn");
        assert_eq!(settings.tls_cert_file.unwrap(), Path::new("/c"));
        assert_eq!(settings.tls_key_file.unwrap(), Path::new("/k"));
        assert!(read(&["-authenticate-k8s-token"]).osb_token_review);
    }

    #[test]
    fn todays_words_go_before_the_old_ones() {
        let line = read_with("x", &["-stderrthreshold=2", "--log=debug"], &[]);
        assert_eq!(line.settings.log, "debug");
        let line = read_with("x", &[], &[("GLOG_stderrthreshold", "1")]);
        assert_eq!(line.settings.log, "warn");
        let line = read_with("x", &[], &[("GLOG_v", "2"), ("RUST_LOG", "info")]);
        assert_eq!(line.settings.log, "info", "clap reads the variable itself");
    }

    #[test]
    fn the_names_of_the_old_images_programs_start_its_roles() {
        let line = read_with("/start.sh", &[], &[]);
        assert!(line.settings.insecure && line.settings.role == Role::All);
        let line = read_with("/start.sh", &["-insecure"], &[]);
        assert!(line.settings.insecure);
        let line = read_with("start.sh", &[], &[("TLS_CERT_FILE", "/c")]);
        assert!(!line.settings.insecure);
        assert!(
            read_with("/app/start-background.sh", &[], &[])
                .settings
                .background_tasks
        );
    }

    #[test]
    fn the_name_may_be_the_first_argument_of_an_image() {
        let line = read_with("/app/cache-broker", &["./start-background.sh", "-logtostderr=1"], &[]);
        assert!(line.settings.background_tasks);
    }

    #[test]
    fn a_certificate_on_the_command_line_is_refused() {
        let arguments = ["x", "-tlsCert", "abc"].map(OsString::from);
        assert!(CommandLine::try_parse_from(normalized(arguments, |_| None)).is_err());
    }
}
