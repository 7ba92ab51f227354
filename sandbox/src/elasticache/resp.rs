//! A client of the Redis protocol over a node's own Unix socket, for what the service does behind its tenants' backs.

use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(String),
    Nothing,
    List(Vec<Answer>),
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        match self {
            Answer::Text(text) => text,
            _ => "",
        }
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Answer::List(items) => items.iter().map(|item| item.text().to_owned()).collect(),
            _ => Vec::new(),
        }
    }
}

fn encode<S: AsRef<str>>(words: &[S]) -> String {
    let mut text = format!("*{}\r\n", words.len());
    for word in words.iter().map(AsRef::as_ref) {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    text
}

/// A connection to a node.
pub(crate) struct Client(BufReader<UnixStream>);

impl Client {
    pub(crate) async fn connect(socket: &Path, user: &str, password: &str) -> io::Result<Self> {
        let mut client = Self(BufReader::new(UnixStream::connect(socket).await?));
        client.call(&["AUTH", user, password]).await?;
        Ok(client)
    }

    /// Sends a command; an error answer is an error.
    pub(crate) async fn call<S: AsRef<str>>(&mut self, words: &[S]) -> io::Result<Answer> {
        self.0.get_mut().write_all(encode(words).as_bytes()).await?;
        self.read().await
    }

    /// Sends many commands at a time.
    pub(crate) async fn calls<S: AsRef<str>>(&mut self, commands: &[Vec<S>]) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(commands.len());
        for batch in commands.chunks(200) {
            let text: String = batch.iter().map(|words| encode(words)).collect();
            self.0.get_mut().write_all(text.as_bytes()).await?;
            for _ in batch {
                answers.push(self.read().await?);
            }
        }
        Ok(answers)
    }

    async fn read(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).unwrap_or(("", line));
        let count = || {
            rest.parse::<i64>()
                .map_err(|_| io::Error::other(format!("bad answer: {line}")))
        };
        match kind {
            "+" | ":" => Ok(Answer::Text(rest.to_owned())),
            "-" => Err(io::Error::other(rest.to_owned())),
            "$" => {
                let Ok(length) = usize::try_from(count()?) else {
                    return Ok(Answer::Nothing);
                };
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes).await?;
                bytes.truncate(length);
                Ok(Answer::Text(String::from_utf8_lossy(&bytes).into_owned()))
            }
            "*" => {
                let mut items = Vec::new();
                for _ in 0..count()? {
                    items.push(Box::pin(self.read()).await?);
                }
                Ok(Answer::List(items))
            }
            _ => Err(io::Error::other(format!("bad answer: {line}"))),
        }
    }
}
