//! One round trip between two processes of this machine, as far as the network has a part in it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::measure::median;

/// Bytes of one message: about a command, or an answer.
const MESSAGE: usize = 128;
const TRIPS: usize = 500;

/// The median of many round trips over TCP on the loopback device, between two threads, without TLS.
///
/// # Errors
/// There is no loopback device.
pub fn measure() -> Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut caller = TcpStream::connect(listener.local_addr()?)?;
    let (mut called, _) = listener.accept()?;
    caller.set_nodelay(true)?;
    called.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    let echo = std::thread::spawn(move || {
        let mut message = [0; MESSAGE];
        while called.read_exact(&mut message).and_then(|()| called.write_all(&message)).is_ok() {}
    });
    let mut trips = Vec::new();
    for _ in 0..TRIPS {
        let began = Instant::now();
        caller.write_all(&message)?;
        caller.read_exact(&mut message)?;
        trips.push(began.elapsed());
    }
    drop(caller);
    let _ = echo.join();
    Ok(median(trips))
}
