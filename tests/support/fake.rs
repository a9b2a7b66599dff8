//! A source that lies: a real one behind a man in the middle, who knows the protocol and plays a trick on each session.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Whether the source's WAL is on disk depends on what else goes on there. Here it never is, so that a refresh always has
/// the same messages.
const FLUSHED: [&[u8]; 2] = [b"\"unflushed\" : false", b"\"unflushed\" : true "];

/// When a trick is asked what to do.
pub struct Moment<'a> {
    /// 0 when the connection was accepted, 1 when its startup message has come, then one for each message of the source.
    pub number: usize,
    /// The type of the source's message; 0 for the first two.
    pub kind: u8,
    pub body: &'a [u8],
    /// What the client sent last.
    pub statement: &'a str,
}

impl Moment<'_> {
    /// In the middle of a session, not at its beginning.
    pub fn in_catalog(&self) -> bool {
        self.number > 1 && !self.statement.is_empty() && !self.in_copy()
    }

    pub fn in_copy(&self) -> bool {
        self.statement.starts_with("COPY (")
    }

    /// The message as it came.
    pub fn bytes(&self) -> Vec<u8> {
        if self.kind == 0 {
            return Vec::new();
        }
        message(self.kind, self.body)
    }
}

/// What is done at a moment.
pub enum Act {
    Pass,
    /// These bytes come instead of the message.
    Instead(Vec<u8>),
    /// These bytes, then the connection is closed.
    Close(Vec<u8>),
    /// These bytes, then nothing more, and the connection stays open.
    Silence(Vec<u8>),
    /// These bytes, again and again.
    Flood(Vec<u8>),
}

pub type Trick = Arc<dyn Fn(&Moment<'_>) -> Act + Send + Sync>;

pub struct Fake {
    pub port: u16,
    trick: Arc<Mutex<Trick>>,
    seen: Arc<Seen>,
}

/// What has happened since a trick was given.
#[derive(Default)]
struct Seen {
    /// The type of the message at each moment of the last session.
    kinds: Mutex<Vec<u8>>,
    played: AtomicBool,
    deaf: AtomicBool,
}

impl Fake {
    pub fn before(target: u16) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let trick: Arc<Mutex<Trick>> = Arc::new(Mutex::new(Arc::new(|_| Act::Pass)));
        let fake = Fake { port, trick: trick.clone(), seen: Arc::default() };
        let seen = fake.seen.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let trick = trick.lock().unwrap().clone();
                let seen = seen.clone();
                std::thread::spawn(move || {
                    // Either end may go at any time.
                    let _ = serve(client, target, &trick, &seen);
                });
            }
        });
        fake
    }

    /// The trick for the sessions that begin from now on.
    pub fn play(&self, trick: impl Fn(&Moment<'_>) -> Act + Send + Sync + 'static) {
        self.seen.played.store(false, Ordering::SeqCst);
        *self.trick.lock().unwrap() = Arc::new(trick);
    }

    pub fn be_honest(&self) {
        self.play(|_| Act::Pass);
    }

    /// Whether the trick has done anything.
    pub fn has_played(&self) -> bool {
        self.seen.played.load(Ordering::SeqCst)
    }

    /// The type of the message at each moment of the last session.
    pub fn kinds(&self) -> Vec<u8> {
        self.seen.kinds.lock().unwrap().clone()
    }

    /// Whether requests to cancel are taken, and never answered.
    pub fn be_deaf(&self, deaf: bool) {
        self.seen.deaf.store(deaf, Ordering::SeqCst);
    }
}

fn serve(mut client: TcpStream, target: u16, trick: &Trick, seen: &Seen) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut number = 0;
    if !matches!(trick(&Moment { number, kind: 0, body: &[], statement: "" }), Act::Pass) {
        seen.played.store(true, Ordering::SeqCst);
        return close(&client);
    }
    let startup = loop {
        let packet = read_startup(&mut client)?;
        match u32::from_be_bytes(packet[4..8].try_into().unwrap()) {
            SSL_REQUEST | GSS_REQUEST => client.write_all(b"N")?,
            CANCEL_REQUEST if seen.deaf.load(Ordering::SeqCst) => {
                io::copy(&mut client, &mut io::sink())?;
                return Ok(());
            }
            CANCEL_REQUEST => {
                let mut server = TcpStream::connect(("127.0.0.1", target))?;
                server.write_all(&packet)?;
                io::copy(&mut server, &mut client)?;
                return close(&client);
            }
            _ => break packet,
        }
    };

    *seen.kinds.lock().unwrap() = vec![0];
    let server = TcpStream::connect(("127.0.0.1", target))?;
    server.set_nodelay(true)?;
    let statement = Arc::new(Mutex::new(String::new()));
    let heard = statement.clone();
    let (from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    to_server.write_all(&startup)?;
    let forwarder = std::thread::spawn(move || {
        let _ = forward(&from_client, &to_server, &heard);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let mut from_server = BufReader::new(server.try_clone()?);
    let mut body = Vec::new();
    let mut kind = 0;
    let outcome = loop {
        number += 1;
        if number > 1 {
            kind = match read_message(&mut from_server, &mut body) {
                Ok(kind) => kind,
                Err(error) => break Err(error),
            };
            let [flushed, unflushed] = FLUSHED;
            if let Some(at) = body.windows(flushed.len()).position(|part| part == flushed).filter(|_| kind == b'D') {
                body[at..at + flushed.len()].copy_from_slice(unflushed);
            }
        }
        seen.kinds.lock().unwrap().push(kind);
        let statement = statement.lock().unwrap().clone();
        let moment = Moment { number, kind, body: &body, statement: &statement };
        let act = trick(&moment);
        if !matches!(act, Act::Pass) {
            seen.played.store(true, Ordering::SeqCst);
        }
        let acted = match act {
            Act::Pass => client.write_all(&moment.bytes()),
            Act::Instead(bytes) => client.write_all(&bytes),
            Act::Close(bytes) => break client.write_all(&bytes),
            Act::Silence(bytes) => {
                let sent = client.write_all(&bytes);
                return sent.and(fall_silent(forwarder));
            }
            Act::Flood(bytes) => {
                let many = bytes.repeat((256 * 1024 / bytes.len()).max(1));
                break loop {
                    if let Err(error) = client.write_all(&many) {
                        break Err(error);
                    }
                };
            }
        };
        if acted.is_err() {
            break acted;
        }
    };
    let _ = close(&server);
    let _ = close(&client);
    outcome
}

/// Until the client has gone.
fn fall_silent(forwarder: JoinHandle<()>) -> io::Result<()> {
    let _ = forwarder.join();
    Ok(())
}

fn close(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Both)
}

/// Passes what the client sends on, and remembers its statements.
fn forward(from: &TcpStream, mut to: &TcpStream, statement: &Mutex<String>) -> io::Result<()> {
    let mut from = BufReader::new(from);
    let mut body = Vec::new();
    loop {
        let kind = read_message(&mut from, &mut body)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap()).to_string();
        match kind {
            b'Q' => *statement.lock().unwrap() = text(&body),
            b'P' => *statement.lock().unwrap() = text(&body[1..]),
            _ => {}
        }
        to.write_all(&message(kind, &body))?;
    }
}

fn read_startup(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet)?;
    packet.resize(u32::from_be_bytes(packet[..].try_into().unwrap()) as usize, 0);
    from.read_exact(&mut packet[4..])?;
    Ok(packet)
}

fn read_message(from: &mut impl Read, body: &mut Vec<u8>) -> io::Result<u8> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    body.resize(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4, 0);
    from.read_exact(body)?;
    Ok(head[0])
}

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    with_length(kind, body.len() as i32 + 4, body)
}

/// A message that says it is so long, whatever it is.
pub fn with_length(kind: u8, length: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

pub fn data_row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = (values.len() as i16).to_be_bytes().to_vec();
    for value in values {
        match value {
            Some(value) => {
                body.extend((value.len() as i32).to_be_bytes());
                body.extend(*value);
            }
            None => body.extend((-1i32).to_be_bytes()),
        }
    }
    message(b'D', &body)
}

/// So many columns of type text.
pub fn row_description(columns: i16) -> Vec<u8> {
    let mut body = columns.to_be_bytes().to_vec();
    for _ in 0..columns {
        body.extend(b"c\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    }
    message(b'T', &body)
}

pub fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

/// An error or (N) a notice.
pub fn report(kind: u8, severity: &str, sqlstate: &str, text: &str) -> Vec<u8> {
    message(kind, format!("S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0D{text}\0H{text}\0\0").as_bytes())
}

pub fn notice(text: &str) -> Vec<u8> {
    report(b'N', "WARNING", "01000", text)
}

pub fn parameter(name: &str, value: &str) -> Vec<u8> {
    message(b'S', format!("{name}\0{value}\0").as_bytes())
}
