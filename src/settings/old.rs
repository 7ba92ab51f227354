//! The command lines and variables of the broker that this one replaces, which was written in Go with glog's flags.

use std::ffi::OsString;
use std::path::Path;

/// What the programs were called in its image. They are names of this one, where an image has no shell.
const START: &str = "start.sh";
const START_BACKGROUND: &str = "start-background.sh";
const SERVICE_BROKER: &str = "servicebroker";

/// A setting of the old broker, and what became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old {
    /// As it was spelled.
    pub(super) name: &'static str,
    /// What it is today, for people.
    pub(super) now: &'static str,
}

/// All of them.
pub(super) const OLD: [Old; 27] = [
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
        now: "the same; 8443 if absent. It goes before `-port`, as it did; `--port` goes before it",
    },
    Old {
        name: "`RETRY_WEBHOOKS`",
        now: "the same: tried again, now for a day with growing pauses. Any value but `false`, `f`, `no`, `off` and `0` says so",
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
        name: "`-database-url`, `-name-prefix`",
        now: "`--database-url`, `--name-prefix`",
    },
    Old {
        name: "`-kube-config`",
        now: "`--kube-config`",
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
    Old {
        name: "`servicebroker`",
        now: "a name of the program in the image; under it plain HTTP is the default, as it was: `-insecure=false` or `TLS_CERT_FILE` ends that",
    },
    Old {
        name: "`servicebroker version`",
        now: "`--version`",
    },
    Old {
        name: "a hyphen or two before a flag; `true`, `t`, `1` and their capitals, `false`, `f`, `0` behind it",
        now: "the same",
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
    let names = [START, START_BACKGROUND, SERVICE_BROKER];
    let is_name = |path: &OsString| named(path).is_some_and(|name| names.contains(&name.as_str()));
    let program = arguments.next_if(is_name).unwrap_or(program);
    // Its default was plain HTTP.
    let mut insecure = None;
    match named(&program).as_deref() {
        Some(START | SERVICE_BROKER) => insecure = Some(variable("TLS_CERT_FILE").is_none()),
        Some(START_BACKGROUND) => normal.push("--background-tasks".into()),
        _ => {}
    }
    if named(&program).as_deref() == Some(SERVICE_BROKER) && arguments.next_if(|first| first == "version").is_some() {
        normal.push("--version".into());
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
        // As Go reads them.
        let flag = |value: &Option<String>| {
            let value = value.as_deref();
            value.is_none_or(|value| ["true", "1", "t"].contains(&value.to_ascii_lowercase().as_str()))
        };
        match name {
            "insecure" => insecure = Some(flag(&value)),
            "background-tasks" => {
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
            "v" => old.verbosity(value_of(value).as_deref()),
            "tls-private-key-file" => {
                normal.push("--tls-key-file".into());
                normal.extend(value_of(value).map(OsString::from));
            }
            // The old broker's variable went before its flag.
            "port" if !text.starts_with("--") && variable("PORT").is_some_and(|port| !port.is_empty()) => {
                value_of(value);
            }
            // Go takes one hyphen for what clap takes two.
            "port" | "tls-cert-file" | "database-url" | "name-prefix" | "kube-config" if !text.starts_with("--") => {
                normal.push(format!("--{name}").into());
                normal.extend(value_of(value).map(OsString::from));
            }
            _ => normal.push(argument),
        }
    }
    if insecure == Some(true) {
        normal.push("--insecure".into());
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

    /// Every flag of the old broker and of its logger, in each form that Go reads.
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

        for (word, on) in [
            ("true", true),
            ("TRUE", true),
            ("True", true),
            ("t", true),
            ("T", true),
            ("1", true),
            ("false", false),
            ("FALSE", false),
            ("False", false),
            ("f", false),
            ("F", false),
            ("0", false),
        ] {
            let flags = ["insecure", "background-tasks", "authenticate-k8s-token"];
            for hyphens in ["-", "--"] {
                let arguments = flags.map(|flag| format!("{hyphens}{flag}={word}"));
                let settings = read(&arguments.each_ref().map(String::as_str));
                let found = [settings.insecure, settings.background_tasks, settings.osb_token_review];
                assert_eq!(found, [on; 3], "{arguments:?}");
            }
        }
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().unwrap().to_str().unwrap().to_owned();
        let shown = |name: &str, settings: &super::super::Settings| match name {
            "port" => settings.port.to_string(),
            // It does not print itself.
            "database-url" => settings.database_url.as_ref().map(|_| "read").unwrap().to_owned(),
            "name-prefix" => settings.name_prefix.clone().unwrap(),
            "kube-config" => path(&settings.kube_config),
            "tls-cert-file" => path(&settings.tls_cert_file),
            "tls-private-key-file" => path(&settings.tls_key_file),
            "stderrthreshold" | "v" => settings.log.clone(),
            _ => String::new(),
        };
        for (name, value, expected) in [
            ("port", "9000", "9000"),
            ("database-url", "postgres://u:p@h:5432/d?sslmode=disable", "read"),
            ("name-prefix", "akkeris", "akkeris"),
            ("kube-config", "/k/config", "/k/config"),
            ("tls-cert-file", "/c", "/c"),
            ("tls-private-key-file", "/k", "/k"),
            ("stderrthreshold", "WARNING", "warn"),
            ("v", "1", "debug"),
            ("log_dir", "/tmp", ""),
            ("log_backtrace_at", "a.go:1", ""),
            ("vmodule", "a=1", ""),
        ] {
            for hyphens in ["-", "--"] {
                let (joined, apart) = (format!("{hyphens}{name}={value}"), format!("{hyphens}{name}"));
                for arguments in [&[joined.as_str()][..], &[apart.as_str(), value]] {
                    let found = shown(name, &read(&[arguments, &["-background-tasks"]].concat()));
                    assert!(found.contains(expected), "{arguments:?}: {found}");
                    assert!(
                        read(&[arguments, &["-background-tasks"]].concat()).background_tasks,
                        "{arguments:?}"
                    );
                }
            }
        }
        for flag in ["-alsologtostderr", "--alsologtostderr=true", "-logtostderr=T"] {
            assert!(read(&[flag, "-background-tasks"]).background_tasks);
        }
    }

    /// Every variable of the old broker, with the values that meant something there.
    #[test]
    fn takes_the_old_brokers_environment() {
        for (text, on) in [
            ("true", true),
            ("1", true),
            ("yes", true),
            ("please", true),
            ("false", false),
            ("", false),
        ] {
            assert_eq!(super::super::parse::any_flag(text), Ok(on), "RETRY_WEBHOOKS={text}");
        }
        for (text, on) in [
            ("true", Ok(true)),
            ("TRUE", Ok(true)),
            ("false", Ok(false)),
            ("0", Ok(false)),
            ("", Ok(false)),
        ] {
            assert_eq!(super::super::parse::flag(text), on, "USE_KUBERNETES={text}");
        }
        assert!(super::super::parse::flag("perhaps").is_err());
        assert_eq!(
            (super::super::parse::port(""), super::super::parse::port("80")),
            (Ok(8443), Ok(80))
        );
        let mut settings = read_with("x", &["--aws-region=", "--redis-subnet-group="], &[]).settings;
        settings.forget_empty();
        assert_eq!((settings.aws_region, settings.redis_subnet_group), (None, None));
    }

    #[test]
    fn the_port_of_the_environment_went_before_the_flag() {
        let line = read_with("x", &["-port", "9000", "-insecure"], &[("PORT", "9001")]);
        assert_eq!(
            (line.settings.port, line.settings.insecure),
            (8443, true),
            "clap reads the variable itself"
        );
        let line = read_with("x", &["--port=9000"], &[("PORT", "9001")]);
        assert_eq!(line.settings.port, 9000);
        let line = read_with("x", &["-port=9000"], &[("PORT", "")]);
        assert_eq!(line.settings.port, 9000);
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
        let insecure =
            |arguments: &[&str], variables| read_with("./servicebroker", arguments, variables).settings.insecure;
        assert!(insecure(&[], &[]) && insecure(&["-logtostderr=1"], &[]));
        assert!(!insecure(&["-insecure=false"], &[]));
        assert!(!insecure(&[], &[("TLS_CERT_FILE", "/c")]));
        let version = ["servicebroker", "version"].map(OsString::from);
        let asked = CommandLine::try_parse_from(normalized(version, |_| None)).unwrap_err();
        assert_eq!(asked.kind(), clap::error::ErrorKind::DisplayVersion);
    }

    #[test]
    fn the_name_may_be_the_first_argument_of_an_image() {
        let line = read_with("/app/cache-broker", &["./start-background.sh", "-logtostderr=1"], &[]);
        assert!(line.settings.background_tasks);
        let line = read_with("/app/cache-broker", &["./servicebroker", "-background-tasks"], &[]);
        assert!(line.settings.background_tasks && line.settings.insecure);
    }

    #[test]
    fn a_certificate_on_the_command_line_is_refused() {
        for flag in ["-tlsCert", "--tlsKey"] {
            let arguments = ["x", flag, "abc"].map(OsString::from);
            assert!(
                CommandLine::try_parse_from(normalized(arguments, |_| None)).is_err(),
                "{flag}"
            );
        }
    }
}
