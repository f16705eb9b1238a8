//! TCP between namespaces.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{netns::Netns, patience};

/// Longer than any retransmission that a test should see.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends that many bytes from `client` to a listener on `address` in `server`, which sends them
/// back, and checks that they are the same.
#[track_caller]
pub fn echo(server: &Netns, client: &Netns, address: impl Into<IpAddr>, bytes: usize) {
    let address = address.into();
    if let Err(error) = try_echo(server, client, address, bytes) {
        let (server, client) = (server.name(), client.name());
        panic!("cannot echo {bytes} bytes from {client} by {address} in {server}: {error}");
    }
}

/// The same, where a test wants to see it fail.
pub fn try_echo(server: &Netns, client: &Netns, address: IpAddr, bytes: usize) -> io::Result<()> {
    let listener = server.enter(|| TcpListener::bind((address, 0)))?;
    let to = listener.local_addr()?;
    // Connected before anybody accepts, so that nothing waits for a client that failed.
    let mut stream = client.enter(|| TcpStream::connect_timeout(&to, TIMEOUT))?;
    let (mut accepted, _) = listener.accept()?;
    for end in [&stream, &accepted] {
        end.set_read_timeout(Some(TIMEOUT))?;
        end.set_write_timeout(Some(TIMEOUT))?;
    }

    let sent = pattern(bytes);
    let mut received = Vec::with_capacity(bytes);
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        let echoing = scope.spawn(move || {
            let mut reader = accepted.try_clone()?;
            io::copy(&mut reader, &mut accepted)?;
            accepted.shutdown(Shutdown::Write)
        });
        let writing = scope.spawn(|| {
            writer.write_all(&sent)?;
            writer.shutdown(Shutdown::Write)
        });
        let reading = stream.read_to_end(&mut received).map(drop);
        let [echoing, writing] = [echoing, writing].map(|t| t.join().expect("it does not panic"));
        reading.and(echoing).and(writing)
    })?;
    if received != sent {
        return Err(io::Error::other(format!("{} bytes came back changed", received.len())));
    }
    Ok(())
}

/// Bytes without a short period, so that a lost or doubled segment shows.
fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let step = || {
        // xorshift32
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(step).take(bytes).collect()
}

/// A TCP connection that goes on until it is stopped, at a rate that leaves the CPU to others.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sending: TcpStream,
    sender: JoinHandle<io::Result<()>>,
    receiver: JoinHandle<StreamResult>,
}

/// What became of a [`Stream`].
#[derive(Debug)]
pub struct StreamResult {
    /// Bytes received.
    pub bytes: u64,
    /// The longest time in which nothing was received.
    pub longest_stall: Duration,
    /// What ended the connection, if it was not stopped.
    pub error: Option<io::Error>,
}

impl Stream {
    /// Connects `client` to a listener on `address` in `server`, and starts to send.
    #[track_caller]
    #[must_use]
    pub fn start(server: &Netns, client: &Netns, address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        let (sending, receiving) = connect(server, client, address)
            .unwrap_or_else(|e| panic!("cannot connect {} to {address}: {e}", client.name()));
        let mut writer = sending.try_clone().expect("a socket can be shared");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let chunk = vec![0x5a; 16 << 10];
            while !stopped.load(Ordering::Relaxed) {
                match writer.write_all(&chunk) {
                    Err(error) if !stopped.load(Ordering::Relaxed) => return Err(error),
                    _ => thread::sleep(patience(Duration::from_millis(1))),
                }
            }
            Ok(())
        });
        let stopped = Arc::clone(&stop);
        let receiver = thread::spawn(move || receive(receiving, &stopped));
        Self { stop, sending, sender, receiver }
    }

    /// Stops, and says what was seen.
    #[track_caller]
    #[must_use]
    pub fn stop(self) -> StreamResult {
        self.stop.store(true, Ordering::Relaxed);
        // Ends a write that waits for a wire that is down.
        let _ = self.sending.shutdown(Shutdown::Both);
        let mut result = self.receiver.join().expect("the receiver does not panic");
        let sent = self.sender.join().expect("the sender does not panic");
        result.error = result.error.or(sent.err());
        result
    }
}

fn connect(server: &Netns, client: &Netns, address: IpAddr) -> io::Result<(TcpStream, TcpStream)> {
    let listener = server.enter(|| TcpListener::bind((address, 0)))?;
    let to: SocketAddr = listener.local_addr()?;
    let sending = client.enter(|| TcpStream::connect_timeout(&to, TIMEOUT))?;
    sending.set_write_timeout(Some(TIMEOUT))?;
    let (receiving, _) = listener.accept()?;
    // Short, so that a stop is noticed while nothing comes.
    receiving.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok((sending, receiving))
}

fn receive(mut stream: TcpStream, stop: &AtomicBool) -> StreamResult {
    let mut result = StreamResult { bytes: 0, longest_stall: Duration::ZERO, error: None };
    let mut buffer = vec![0; 1 << 18];
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let read = stream.read(&mut buffer);
        result.longest_stall = result.longest_stall.max(last.elapsed());
        match read {
            Ok(0) => {
                if !stop.load(Ordering::Relaxed) {
                    result.error = Some(io::ErrorKind::UnexpectedEof.into());
                }
                break;
            }
            Ok(length) => {
                result.bytes += length as u64;
                last = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                result.error = Some(error);
                break;
            }
        }
    }
    result
}
