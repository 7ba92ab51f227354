//! The broker at work: a platform and an administrator order caches, use them and give them back, on a sandbox, and
//! what is left in the end is counted. Each step is a check: the first that fails ends the demo.

mod admin;
mod broker;
mod caches;
mod http;
mod kubectl;
mod leftovers;
mod platform;
mod report;
mod webhook;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use broker::Broker;
use kubectl::Kubectl;
use platform::Platform;
pub use report::Failure;
use report::Report;
use webhook::Receiver;

use crate::error::tail;
use crate::prerequisites::{self, Needs};
use crate::{Error, Sandbox, shell, write_private};

/// How long anything may take that a step waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a step looks whether what it waits for has happened.
const LOOK: Duration = Duration::from_millis(50);

/// The top folder of the project, where the definitions, plans and examples are.
const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// How the demo shall run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The broker to show; the one beside this program if absent.
    pub broker: Option<PathBuf>,
    /// Leave all of it running in the end.
    pub keep: bool,
}

/// Where the stories are played.
struct Stage {
    kubectl: Kubectl,
    receiver: Receiver,
    broker: Broker,
    plans: usize,
    sandbox: Sandbox,
}

/// Runs the demo. It ends early, with a failure, if it is asked to; a demo that is kept running ends only then.
///
/// # Errors
/// When a step fails.
pub async fn run(options: Options, asked_to_end: impl Future<Output = ()>) -> Result<(), Failure> {
    let report = Report::new();
    let mut asked_to_end = pin!(asked_to_end);
    let interrupted = || Failure::new("the demo", "was interrupted");
    let mut stage = tokio::select! {
        stage = set_stage(&options, &report) => stage?,
        () = &mut asked_to_end => return Err(interrupted()),
    };
    let played = tokio::select! {
        played = play(&mut stage, &report) => played.map_err(|failure| failure.with_log(&tail(stage.broker.log()))),
        () = &mut asked_to_end => return Err(interrupted()),
    };
    if let (Ok(remain), false) = (&played, options.keep) {
        report.conclude(remain);
    }
    if options.keep {
        match &played {
            Ok(remain) => report.conclude(remain),
            Err(failure) => eprintln!("{failure}"),
        }
        how_to_reach(&stage, &report)?;
        asked_to_end.await;
    }
    stage.sandbox.stop().await;
    played.map(drop)
}

async fn set_stage(options: &Options, report: &Report) -> Result<Stage, Failure> {
    let builder = Sandbox::builder();
    let mut missing = builder.missing();
    missing.extend(prerequisites::missing(&[Needs::Shell]));
    if !missing.is_empty() {
        return Err(Failure::new("what the demo needs", Error::Missing(missing)));
    }
    let binary = broker::find(options.broker.as_deref()).map_err(|why| Failure::new("the broker's binary", why))?;

    report.chapter("The stage");
    let sandbox = report
        .step("start Kubernetes, Postgres and an ElastiCache endpoint", async {
            let sandbox = builder.start().await.map_err(|error| error.to_string())?;
            Ok((sandbox, String::new()))
        })
        .await?;
    let kubectl = Kubectl::new(sandbox.kubeconfig(), Path::new(PROJECT));
    let plans = report
        .step("kubectl apply: definitions, namespaces, default plans", async {
            let plans = admin::install(&kubectl).await?;
            Ok((plans, format!("{plans} plans")))
        })
        .await?;
    let receiver = Receiver::start(sandbox.addresses().guest())
        .await
        .map_err(|why| Failure::new("starting a receiver of webhooks", why))?;
    let broker = report
        .step("start cache-broker, and wait until it is ready", async {
            let broker = Broker::start(&sandbox, &binary).await?;
            let url = broker.url().to_owned();
            Ok((broker, url))
        })
        .await?;
    Ok(Stage {
        kubectl,
        receiver,
        broker,
        plans,
        sandbox,
    })
}

async fn play(stage: &mut Stage, report: &Report) -> Result<String, Failure> {
    let Stage {
        kubectl,
        receiver,
        broker,
        plans,
        sandbox,
    } = stage;
    let authority = sandbox
        .elasticache()
        .map_err(|error| Failure::new("the ElastiCache endpoint", error))?
        .ca_file()
        .to_owned();
    let platform = Platform::new(broker);

    report.chapter("A platform orders a memcached in the cluster");
    let catalog = platform.catalog(report, *plans).await?;
    let memcached = platform
        .order(report, catalog.plan("akkeris-memcached", "hobby-dev")?, Some(receiver))
        .await?;
    caches::use_memcached(report, &memcached.credentials).await?;
    receiver.expect(report, &memcached.id, "provision").await?;
    receiver.expect(report, &memcached.id, "bind").await?;

    report.chapter("A platform orders a redis on ElastiCache, with a password and TLS");
    let redis = platform
        .order(report, catalog.plan("akkeris-redis", "hobby-dev")?, None)
        .await?;
    caches::use_redis(report, &redis.credentials, &authority).await?;

    report.chapter("An administrator orders a memcached with kubectl");
    admin::order(report, kubectl).await?;

    report.chapter("They give all of it back");
    platform.give_back(report, &memcached).await?;
    receiver.expect(report, &memcached.id, "deprovision").await?;
    platform.give_back(report, &redis).await?;
    admin::give_back(report, kubectl).await?;

    report.chapter("What is left");
    leftovers::count(report, sandbox, kubectl).await
}

/// Says how to use what is left running. Secrets go into a file that only its owner can read.
fn how_to_reach(stage: &Stage, report: &Report) -> Result<(), Failure> {
    let file = stage.sandbox.supervisor().dir().join("demo.env");
    let exports: String = stage
        .sandbox
        .environment()
        .into_iter()
        .chain(stage.broker.environment())
        .map(|(name, value)| format!("export {name}={}\n", shell::quote(&value)))
        .collect();
    write_private(&file, &exports)
        .map_err(|error| Failure::new("keeping it running", format!("writing {}: {error}", file.display())))?;
    report.say(&format!(
        r#"
All of it goes on running until Ctrl-C. In another shell, in the project's folder:

  . {file}
  kubectl get cplan
  kubectl apply -f examples/plan.yaml -f examples/instance.yaml
  curl -s -u "$BROKER_USER:$BROKER_PASSWORD" -H 'X-Broker-API-Version: 2.17' "$BROKER_URL/v2/catalog" | jq .
  PLAN=hobby-dev examples/osb.sh

The broker's log is {log}."#,
        file = file.display(),
        log = stage.broker.log().display()
    ));
    Ok(())
}
