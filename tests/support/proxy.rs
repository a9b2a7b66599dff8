//! A TCP connection to a source that can fall silent in the middle, as a network does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

pub struct Proxy {
    pub port: u16,
    /// Bytes that may still come from the source; then it is silent, and the connection stays open.
    allowance: Arc<AtomicU64>,
    passed: Arc<AtomicU64>,
}

impl Proxy {
    pub fn start(target: u16, allowance: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let allowance = Arc::new(AtomicU64::new(allowance));
        let passed = Arc::new(AtomicU64::new(0));
        let (limit, count) = (allowance.clone(), passed.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let closed = Arc::new(AtomicBool::new(false));
                let also = closed.clone();
                std::thread::spawn(move || pass(from_client, to_server, None, &also));
                let (limit, count) = (limit.clone(), count.clone());
                std::thread::spawn(move || pass(server, client, Some((limit, count)), &closed));
            }
        });
        Proxy { port, allowance, passed }
    }

    pub fn allow(&self, bytes: u64) {
        self.allowance.store(bytes, Ordering::SeqCst);
    }

    /// Whether all that was allowed has passed.
    pub fn is_silent(&self) -> bool {
        self.allowance.load(Ordering::SeqCst) == 0
    }

    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

/// Once one end is gone both sockets are closed with what is unread in them, which tells the other end, even one that waits to
/// send.
fn pass(mut from: TcpStream, mut to: TcpStream, limit: Option<(Arc<AtomicU64>, Arc<AtomicU64>)>, closed: &AtomicBool) {
    let mut buffer = [0; 8192];
    loop {
        let mut most = buffer.len();
        if let Some((limit, _)) = &limit {
            let left = limit.load(Ordering::SeqCst);
            if left == 0 {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            most = most.min(left as usize);
        }
        match from.read(&mut buffer[..most]) {
            Ok(length) if length > 0 && to.write_all(&buffer[..length]).is_ok() => {
                if let Some((limit, count)) = &limit {
                    let _ = limit.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                        Some(left.saturating_sub(length as u64))
                    });
                    count.fetch_add(length as u64, Ordering::SeqCst);
                }
            }
            _ => {
                closed.store(true, Ordering::SeqCst);
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
