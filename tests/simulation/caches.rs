//! Caches in the cluster: what a Pod's server answers over its own protocol, as far as the broker asks. They have their users
//! from the Secrets that their Pods mount, and those they were given since.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cache_broker::dial::{Dial, Dialling, Line};
use sandbox::in_memory_kubernetes::Key;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::gate::{Call, Failure, System, Verdict};
use crate::world::{Late, World};

/// The port that speaks memcached's protocol; the others speak redis'.
const MEMCACHED: u16 = 11211;

/// The server of a Pod.
#[derive(Debug, Default)]
pub struct Cache {
    /// What its rules say, by user. A server without users lets everybody in.
    users: BTreeMap<String, String>,
    /// The tag of its image.
    version: String,
    /// How often it was emptied.
    pub emptied: u64,
}

impl Cache {
    /// The names of its users.
    pub fn users(&self) -> Vec<&str> {
        self.users.keys().map(String::as_str).collect()
    }

    /// Whether it lets a user in.
    pub fn admits(&self, user: &str, password: &str) -> bool {
        let rules = self.users.get(user);
        rules.is_some_and(|rules| rules.contains(&format!("#{}", hash(password))))
    }

    fn obey(&mut self, words: &[String]) -> Vec<u8> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len()).into_bytes();
        match words.as_slice() {
            ["PING"] => b"+PONG\r\n".to_vec(),
            ["INFO"] => bulk(&format!("# Server\r\nredis_version:{}\r\n", self.version)),
            ["ROLE"] => b"*1\r\n$6\r\nmaster\r\n".to_vec(),
            ["SELECT", _] => b"+OK\r\n".to_vec(),
            ["FLUSHALL" | "FLUSHDB", ..] => {
                self.emptied += 1;
                b"+OK\r\n".to_vec()
            }
            ["ACL", "LIST"] => {
                let lines = self.users.iter().map(|(name, rules)| format!("user {name} {rules}"));
                let mut reply = format!("*{}\r\n", self.users.len()).into_bytes();
                lines.for_each(|line| reply.extend(bulk(&line)));
                reply
            }
            ["ACL", "SETUSER", name, "reset", rules @ ..] => {
                self.users.insert((*name).to_owned(), rules.join(" "));
                b"+OK\r\n".to_vec()
            }
            ["ACL", "DELUSER", names @ ..] => {
                let gone = names.iter().filter(|name| self.users.remove(**name).is_some());
                format!(":{}\r\n", gone.count()).into_bytes()
            }
            ["stats"] => format!("STAT version {}\r\nEND\r\n", self.version).into_bytes(),
            ["version"] => format!("VERSION {}\r\n", self.version).into_bytes(),
            ["flush_all"] => {
                self.emptied += 1;
                b"OK\r\n".to_vec()
            }
            _ => b"-ERR unknown command\r\n".to_vec(),
        }
    }
}

fn hash(password: &str) -> String {
    let digest = digest(&SHA256, password.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The server that begins in a Pod.
pub fn start(world: &World, pod: &Key) {
    let Some(object) = world.object("pods", &pod.namespace, &pod.name) else {
        return;
    };
    let text = |value: &Value| {
        let bytes = BASE64_STANDARD
            .decode(value.as_str().unwrap_or_default())
            .unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let image = object["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let mut cache = Cache {
        version: image.rsplit(':').next().unwrap_or_default().to_owned(),
        ..Cache::default()
    };
    for volume in object["spec"]["volumes"].as_array().into_iter().flatten() {
        let name = volume["secret"]["secretName"].as_str().unwrap_or_default();
        let Some(secret) = world.object("secrets", &pod.namespace, name) else {
            continue;
        };
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            match key.as_str() {
                "password" => {
                    let rules = format!("on #{} ~* &* +@all", hash(&text(value)));
                    cache.users.entry("default".to_owned()).or_insert(rules);
                }
                "users.acl" => {
                    for line in text(value).lines() {
                        let mut words = line.splitn(3, ' ').skip(1);
                        if let (Some(name), Some(rules)) = (words.next(), words.next()) {
                            cache.users.insert(name.to_owned(), rules.to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
    }
    world.state().caches.insert(uid(&object), cache);
}

/// The server of a Pod ends.
pub fn end(world: &World, pod: &Key) {
    if let Some(object) = world.object("pods", &pod.namespace, &pod.name) {
        world.state().caches.remove(&uid(&object));
    }
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// The Pod that a host leads to: by its own address, or by the name of a Service.
fn behind(world: &World, host: &str) -> Option<String> {
    let answers = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    let pods = world.objects("pods");
    if let Some((_, pod)) = pods.iter().find(|(_, pod)| pod["status"]["podIP"] == host) {
        return answers(pod).then(|| uid(pod));
    }
    let mut parts = host.split('.');
    let (service, namespace) = (parts.next()?, parts.next()?);
    let service = world.object("services", namespace, service)?;
    let selector = service["spec"]["selector"].as_object()?;
    let leads = |pod: &Value| {
        let mut wanted = selector.iter();
        wanted.all(|(name, wanted)| pod["metadata"]["labels"].get(name) == Some(wanted))
    };
    let mut pods = pods.iter().filter(|(key, _)| key.namespace == namespace);
    pods.find(|(_, pod)| leads(pod) && answers(pod))
        .map(|(_, pod)| uid(pod))
}

/// Has a command take effect. `None` if the server is gone.
pub fn obey(world: &World, pod: &str, words: &[String]) -> Option<Vec<u8>> {
    let mut state = world.state();
    let reply = state.caches.get_mut(pod)?.obey(words);
    if writes(words) {
        state.wrote();
    }
    Some(reply)
}

fn writes(words: &[String]) -> bool {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    matches!(word(0), "FLUSHALL" | "FLUSHDB" | "flush_all") || matches!(word(1), "SETUSER" | "DELUSER")
}

/// How one process reaches caches.
pub struct Network {
    pub world: Weak<World>,
    pub process: usize,
}

/// The way of one process to caches.
pub fn network(world: &Arc<World>, process: usize) -> Arc<dyn Dial> {
    Arc::new(Network {
        world: Arc::downgrade(world),
        process,
    })
}

impl Dial for Network {
    fn dial(&self, host: &str, port: u16) -> Dialling {
        let (world, process, host) = (self.world.clone(), self.process, host.to_owned());
        Box::pin(async move {
            let world = world.upgrade().ok_or(io::ErrorKind::ConnectionRefused)?;
            let pod = behind(&world, &host).ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let conversation = Conversation {
                world: world.clone(),
                process,
                host,
                pod,
                is_memcached: port == MEMCACHED,
                stream: theirs,
            };
            let task = tokio::spawn(async move { drop(conversation.go_on().await) });
            let mut state = world.state();
            state.conversations.retain(|(_, task)| !task.is_finished());
            state.conversations.push((process, task.abort_handle()));
            Ok(Box::new(ours) as Box<dyn Line>)
        })
    }
}

struct Conversation {
    world: Arc<World>,
    process: usize,
    host: String,
    pod: String,
    is_memcached: bool,
    stream: DuplexStream,
}

impl Conversation {
    /// Answers commands until the other side, or what strikes, ends it.
    async fn go_on(mut self) -> io::Result<()> {
        let mut read = Vec::new();
        let mut known = false;
        loop {
            let words = loop {
                let parsed = if self.is_memcached { line(&read) } else { command(&read) };
                if let Some((words, used)) = parsed {
                    read.drain(..used);
                    break words;
                }
                if self.stream.read_buf(&mut read).await? == 0 {
                    return Ok(());
                }
            };
            let reply = match words.as_slice() {
                [auth, login @ ..] if auth == "AUTH" => {
                    let user = if login.len() > 1 { login[0].as_str() } else { "default" };
                    known = login.last().is_some_and(|password| self.admits(user, password));
                    let reply = if known { "+OK\r\n" } else { "-WRONGPASS invalid\r\n" };
                    reply.as_bytes().to_vec()
                }
                _ if !known && self.asks() => b"-NOAUTH Authentication required.\r\n".to_vec(),
                _ => match self.obey(&words).await {
                    Some(reply) => reply,
                    None => return Ok(()),
                },
            };
            self.stream.write_all(&reply).await?;
        }
    }

    fn admits(&self, user: &str, password: &str) -> bool {
        let state = self.world.state();
        state
            .caches
            .get(&self.pod)
            .is_some_and(|cache| cache.admits(user, password))
    }

    fn asks(&self) -> bool {
        let state = self.world.state();
        state.caches.get(&self.pod).is_some_and(|cache| !cache.users.is_empty())
    }

    /// The reply to a command; `None` if the connection ends without one.
    async fn obey(&self, words: &[String]) -> Option<Vec<u8>> {
        let (world, process) = (&self.world, self.process);
        let subject = words.iter().take(3).filter(|word| !word.starts_with('#'));
        let call = Call {
            system: System::Cache,
            what: format!("{} at {}", subject.cloned().collect::<Vec<_>>().join(" "), self.host),
            writes: writes(words),
            quiet: false,
        };
        let effect = || obey(world, &self.pod, words);
        match world.pass(process, call).await {
            Verdict::Go => effect(),
            Verdict::Slow(by) => {
                let reply = effect();
                tokio::time::sleep(by).await;
                reply
            }
            Verdict::Lose => {
                drop(effect());
                None
            }
            Verdict::DieBefore => world.die(process).await,
            Verdict::Die => {
                drop(effect());
                world.die(process).await
            }
            verdict @ (Verdict::Late | Verdict::Outlive) => {
                let late = Late::Cache(self.pod.clone(), words.to_vec());
                world.state().late.push(late);
                if verdict == Verdict::Outlive {
                    world.state().dying.insert(process);
                }
                std::future::pending().await
            }
            Verdict::Fail(Failure::Silence) => std::future::pending().await,
            Verdict::Fail(Failure::Broken) => None,
            Verdict::Fail(_) if self.is_memcached => Some(b"SERVER_ERROR struck by the simulation\r\n".to_vec()),
            Verdict::Fail(_) => Some(b"-LOADING struck by the simulation\r\n".to_vec()),
        }
    }
}

/// A line of words, and how many bytes it has.
fn line(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&bytes[..end]);
    Some((line.split_whitespace().map(str::to_owned).collect(), end + 1))
}

/// A command of redis, an array of texts, and how many bytes it has.
fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let number = |kind: u8, at: &mut usize| {
        let rest = bytes.get(*at..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        assert_eq!(rest[0], kind, "a command is an array of texts");
        *at += end + 1;
        std::str::from_utf8(&rest[1..end]).ok()?.trim().parse::<usize>().ok()
    };
    let count = number(b'*', &mut at)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = number(b'$', &mut at)?;
        let word = bytes.get(at..at + length)?;
        bytes.get(at + length + 1)?;
        words.push(String::from_utf8_lossy(word).into_owned());
        at += length + 2;
    }
    Some((words, at))
}
