//! Listeners, and the connections they forward.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::Table;

/// How long a pod has to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a listener waits after a failed accept; the usual cause is that no file descriptor is free.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

type Backends = Arc<[SocketAddrV4]>;

/// All listeners and connections of one proxy; dropping it ends them.
#[derive(Debug)]
pub(super) struct Forwarder {
    limit: usize,
    listeners: BTreeMap<SocketAddrV4, Listener>,
    connections: Arc<Mutex<Connections>>,
}

#[derive(Debug)]
struct Listener {
    backends: watch::Sender<Backends>,
    task: AbortHandle,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Running connections by the pod they lead to.
#[derive(Debug, Default)]
struct Connections(HashMap<Ipv4Addr, Vec<AbortHandle>>);

impl Connections {
    fn add(&mut self, pod: Ipv4Addr, connection: AbortHandle) {
        let to_pod = self.0.entry(pod).or_default();
        // Forgetting the ended ones only when the list would grow keeps each addition cheap.
        if to_pod.len() == to_pod.capacity() {
            to_pod.retain(|one| !one.is_finished());
        }
        to_pod.push(connection);
    }

    fn keep(&mut self, alive: &BTreeSet<Ipv4Addr>) {
        self.0.retain(|pod, connections| {
            let kept = alive.contains(pod);
            if !kept {
                connections.iter().for_each(AbortHandle::abort);
            }
            kept
        });
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.listeners.clear();
        lock(&self.connections).keep(&BTreeSet::new());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Forwarder {
    pub(super) fn new(connections_per_address: usize) -> Self {
        Self {
            limit: connections_per_address,
            listeners: BTreeMap::new(),
            connections: Arc::default(),
        }
    }

    /// Makes listeners and connections agree with the table; false if an address could not be listened on.
    pub(super) fn apply(&mut self, table: &Table) -> bool {
        self.listeners
            .retain(|address, _| table.listeners.contains_key(address));
        lock(&self.connections).keep(&table.alive);
        let mut complete = true;
        for (address, backends) in &table.listeners {
            if let Some(listener) = self.listeners.get(address) {
                if **listener.backends.borrow() != **backends {
                    listener.backends.send_replace(backends.as_slice().into());
                }
                continue;
            }
            match listen(*address) {
                Ok(socket) => {
                    let (publish, current) = watch::channel(backends.as_slice().into());
                    let serving = serve(
                        socket,
                        current,
                        Arc::new(Semaphore::new(self.limit)),
                        self.connections.clone(),
                    );
                    let listener = Listener {
                        backends: publish,
                        task: tokio::spawn(serving).abort_handle(),
                    };
                    self.listeners.insert(*address, listener);
                }
                Err(error) => {
                    tracing::warn!(%error, %address, "the service proxy cannot listen here; it tries again");
                    complete = false;
                }
            }
        }
        complete
    }

    pub(super) fn listening(&self) -> BTreeMap<SocketAddrV4, Vec<SocketAddrV4>> {
        let backends =
            |(address, listener): (&SocketAddrV4, &Listener)| (*address, listener.backends.borrow().to_vec());
        self.listeners.iter().map(backends).collect()
    }
}

fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.into())?;
    socket.listen(1024)
}

async fn serve(
    socket: TcpListener,
    backends: watch::Receiver<Backends>,
    free: Arc<Semaphore>,
    connections: Arc<Mutex<Connections>>,
) {
    let mut turn: usize = 0;
    while let Ok(permit) = free.clone().acquire_owned().await {
        let client = match socket.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::debug!(%error, "accepting a connection to a Service");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        turn = turn.wrapping_add(1);
        let (now, connections) = (backends.borrow().clone(), connections.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let Some((pod, server)) = connect(&now, turn).await else {
                // As near to a refusal as an accepted connection gets: the client sees a reset.
                let _ = client.set_zero_linger();
                return;
            };
            let carrying = tokio::spawn(carry(client, server));
            lock(&connections).add(*pod.ip(), carrying.abort_handle());
            let _ = carrying.await;
        });
    }
}

/// Connects to the backend whose turn it is, else to the next one that answers.
async fn connect(backends: &[SocketAddrV4], turn: usize) -> Option<(SocketAddrV4, TcpStream)> {
    let start = turn.checked_rem(backends.len())?;
    for pod in backends.iter().cycle().skip(start).take(backends.len()) {
        match tokio::time::timeout(CONNECT, TcpStream::connect(*pod)).await {
            Ok(Ok(server)) => return Some((*pod, server)),
            Ok(Err(error)) => tracing::debug!(%error, %pod, "a pod behind a Service does not accept connections"),
            Err(_) => tracing::debug!(%pod, "a pod behind a Service accepts no connection in time"),
        }
    }
    None
}

async fn carry(mut client: TcpStream, mut server: TcpStream) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Either side's end, orderly or not, is the end of the connection; there is nobody to tell.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that answers each byte it gets with its own name.
    async fn named(name: u8, address: Ipv4Addr) -> SocketAddrV4 {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(
                    async move { while stream.read_u8().await.is_ok() && stream.write_u8(name).await.is_ok() {} },
                );
            }
        });
        SocketAddrV4::new(address, port)
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_u8(b'?').await?;
        stream.read_u8().await
    }

    fn free_address() -> SocketAddrV4 {
        let held = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, held.local_addr().unwrap().port())
    }

    fn to(address: SocketAddrV4, backends: &[SocketAddrV4], alive: &[SocketAddrV4]) -> Table {
        Table {
            listeners: [(address, backends.to_vec())].into(),
            alive: alive.iter().map(|one| *one.ip()).collect(),
        }
    }

    #[tokio::test]
    async fn connections_follow_the_table() {
        let a = named(b'a', Ipv4Addr::new(127, 96, 77, 1)).await;
        let b = named(b'b', Ipv4Addr::new(127, 96, 77, 2)).await;
        let address = free_address();
        let mut forwarder = Forwarder::new(16);

        assert!(forwarder.apply(&to(address, &[a, b], &[a, b])));
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(ask(&mut TcpStream::connect(address).await.unwrap()).await.unwrap());
        }
        answers.sort_unstable();
        assert_eq!(answers, b"aabb", "in turn");

        assert!(forwarder.apply(&to(address, &[a], &[a, b])));
        let mut kept = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut kept).await.unwrap(), b'a');
        assert!(forwarder.apply(&to(address, &[b], &[a, b])));
        assert_eq!(
            ask(&mut kept).await.unwrap(),
            b'a',
            "established connections stay with their pod"
        );
        assert_eq!(
            ask(&mut TcpStream::connect(address).await.unwrap()).await.unwrap(),
            b'b'
        );

        assert!(forwarder.apply(&to(address, &[b], &[b])));
        assert!(ask(&mut kept).await.is_err(), "the connection ends with its pod");

        assert!(forwarder.apply(&Table::default()));
        let refused = tokio::time::timeout(CONNECT, async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        assert!(refused.await.is_ok(), "the listener closes");
    }

    #[tokio::test]
    async fn a_pod_that_does_not_answer_is_passed_over() {
        let a = named(b'a', Ipv4Addr::new(127, 96, 77, 3)).await;
        let nobody = free_address();
        let address = free_address();
        let mut forwarder = Forwarder::new(16);
        assert!(forwarder.apply(&to(address, &[a, nobody], &[a, nobody])));
        for _ in 0..4 {
            assert_eq!(
                ask(&mut TcpStream::connect(address).await.unwrap()).await.unwrap(),
                b'a'
            );
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait() {
        let a = named(b'a', Ipv4Addr::new(127, 96, 77, 4)).await;
        let address = free_address();
        let mut forwarder = Forwarder::new(1);
        assert!(forwarder.apply(&to(address, &[a], &[a])));
        let mut first = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut first).await.unwrap(), b'a');
        let mut second = TcpStream::connect(address).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(200), ask(&mut second)).await;
        assert!(waiting.is_err(), "it waits");
        drop(first);
        assert_eq!(second.read_u8().await.unwrap(), b'a', "and then has its turn");
    }
}
