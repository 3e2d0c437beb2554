//! Listens where agents and the kubelet ask: by IPv6 and IPv4 at once, or by IPv4 alone where the kernel has no IPv6.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as Blocking};

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use tokio::net::TcpListener;

/// Connections that wait to be accepted, as tokio and the standard library have it.
const BACKLOG: i32 = 1024;

/// Listens on this address. `[::]` means every address of both families.
///
/// # Errors
/// When the address cannot be taken; the sentence names it.
pub fn on(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = open(address).or_else(|errno| {
        let no_ipv6 = matches!(errno, Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL);
        let any = address.is_ipv6() && address.ip().is_unspecified();
        if no_ipv6 && any { open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()))) } else { Err(errno) }
    });
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    TcpListener::from_std(listener).with_context(|| format!("cannot wait for connections on {address}"))
}

fn open(address: SocketAddr) -> Result<Blocking, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    if address.is_ipv6() {
        // Said, because a node's net.ipv6.bindv6only may say otherwise.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::net::{Ipv6Addr, TcpStream};

    use super::*;

    #[tokio::test]
    async fn both_families_reach_the_default_address() {
        let listener = on("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        // A machine without IPv6 has no such address.
        if listener.local_addr().unwrap().is_ipv6() && Blocking::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let first = on("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.local_addr().unwrap();
        let refused = on(taken).unwrap_err();
        assert!(format!("{refused:#}").starts_with(&format!("cannot listen on {taken}")), "{refused:#}");
    }
}
