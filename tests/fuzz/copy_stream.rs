//! COPY's messages, as the stream that COPY's callback pulls from.

#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

#[path = "../../src/source/copy_out.rs"]
#[allow(dead_code)]
mod copy_out;
#[path = "stand_in/error.rs"]
mod error;

mod backend {
    pub mod interrupts {
        pub fn check() {}
    }
}

/// A source that sends what it is told to.
mod source {
    pub mod connection {
        pub struct Connection {
            pub link: super::libpq::Link,
        }
    }

    pub mod libpq {
        use crate::error::{Error, Result};
        use std::cell::Cell;
        use std::collections::VecDeque;
        use std::rc::Rc;

        pub struct Message(pub Vec<u8>);

        impl Message {
            pub fn bytes(&self) -> &[u8] {
                &self.0
            }
        }

        pub enum CopyData {
            Bytes(Message),
            NotYet,
            End,
        }

        #[derive(Clone)]
        pub enum Event {
            Bytes(Vec<u8>),
            /// Nothing has arrived yet.
            Silence,
            Lost,
        }

        pub struct Link {
            pub statement: String,
            pub events: VecDeque<Event>,
            pub rows: Option<u64>,
            /// How many times a reader has waited.
            pub waits: Rc<Cell<usize>>,
            pub ended: bool,
        }

        pub struct Answer(Option<u64>);

        impl Answer {
            pub fn rows_affected(&self) -> Option<u64> {
                self.0
            }
        }

        impl Link {
            pub fn send(&mut self, statement: &str, _parameters: &[Option<&str>]) -> Result<()> {
                self.statement = statement.to_string();
                Ok(())
            }

            pub fn answer(&mut self, _doing: &str) -> Result<()> {
                Ok(())
            }

            #[allow(dead_code)]
            pub fn abandon(&mut self, _doing: &str) -> Result<()> {
                Ok(())
            }

            pub fn answers(&mut self, _doing: &str) -> Result<Option<Answer>> {
                assert!(self.ended);
                Ok(Some(Answer(self.rows)))
            }

            pub fn copy_data(&mut self, wait: bool) -> Result<CopyData> {
                assert!(!self.ended, "read again behind the end");
                self.waits.set(self.waits.get() + usize::from(wait));
                loop {
                    match self.events.pop_front() {
                        Some(Event::Bytes(bytes)) => return Ok(CopyData::Bytes(Message(bytes))),
                        Some(Event::Silence) if wait => {}
                        Some(Event::Silence) => return Ok(CopyData::NotYet),
                        Some(Event::Lost) => return Err(Error::Internal("lost".to_string())),
                        None => {
                            self.ended = true;
                            return Ok(CopyData::End);
                        }
                    }
                }
            }
        }
    }
}

use error::Error;
use source::connection::Connection;
use source::libpq::{Event, Link};

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let _ = check(&mut input);
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let rows = input.arbitrary()?;
    let mut events = VecDeque::new();
    for _ in 0..input.int_in_range(0..=24)? {
        events.push_back(match input.int_in_range(0..=31)? {
            0..=7 => Event::Silence,
            8 => Event::Lost,
            _ => {
                let length = input.int_in_range(0..=40)?;
                Event::Bytes((0..length).map(|_| input.arbitrary()).collect::<Result<_>>()?)
            }
        });
    }
    // All bytes that come, and whether the stream ends well.
    let whole = !events.iter().any(|event| matches!(event, Event::Lost));
    let sent: Vec<u8> = events
        .iter()
        .take_while(|event| !matches!(event, Event::Lost))
        .flat_map(|event| if let Event::Bytes(bytes) = event { bytes.clone() } else { Vec::new() })
        .collect();
    let binary = input.arbitrary()?;
    let waits = Rc::new(Cell::new(0));
    let link = Link { statement: String::new(), events, rows, waits: waits.clone(), ended: false };
    let mut connection = Connection { link };
    let failure = !whole || rows.is_none();
    let mut read = Vec::new();
    let reads = input.int_in_range(0..=24)?;
    let mut copy = connection.copy_out("SELECT 1", binary).expect("a stream");
    for _ in 0..reads {
        let length = input.int_in_range(0..=64)?;
        let at_least = input.int_in_range(0..=length)?;
        // It ends where it ends.
        let mut buffer = vec![0; length].into_boxed_slice();
        let waited = waits.get();
        match copy.read(&mut buffer, at_least) {
            Ok(filled) => {
                assert!(at_least > 0 || waits.get() == waited);
                read.extend_from_slice(&buffer[..filled]);
                assert!(sent.starts_with(&read));
                if filled < at_least {
                    assert!(whole && read.len() == sent.len(), "too few bytes, and it is not the end");
                }
            }
            Err(error) => {
                check_failure(&error, whole, failure);
                return Ok(());
            }
        }
    }
    match copy.totals() {
        Ok(totals) => {
            assert!(!failure);
            assert_eq!(Some(totals), rows.map(|rows| (rows, sent.len() as u64)));
            let mut buffer = [0; 8];
            assert_eq!(copy.read(&mut buffer, 1), Ok(0));
        }
        Err(error) => check_failure(&error, whole, failure),
    }
    let format = if binary { "binary" } else { "text" };
    assert_eq!(connection.link.statement, format!("COPY (SELECT 1) TO STDOUT (FORMAT {format})"));
    Ok(())
}

fn check_failure(error: &Error, whole: bool, failure: bool) {
    assert!(failure);
    assert!(matches!(error, Error::Internal(what) if (what == "lost") != whole));
}
