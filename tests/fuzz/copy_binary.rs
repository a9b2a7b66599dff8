//! COPY's binary format: the decoder against a plain reader of the same stream, with all of it at hand and in pieces.

#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use pgrx::pg_sys;
use std::panic::AssertUnwindSafe;

#[path = "../../src/destination/binary.rs"]
mod binary;
#[path = "../../src/backend/compat.rs"]
#[allow(dead_code)]
mod compat;
#[path = "stand_in/error.rs"]
mod error;
#[path = "../../src/backend/row_version.rs"]
#[allow(dead_code)]
mod row_version;
#[path = "stand_in/server.rs"]
mod server;
#[path = "../../src/destination/stream.rs"]
mod stream;

mod backend {
    pub(crate) use crate::{compat, row_version};
    pub mod interrupts {
        pub fn check() {}
    }
}

mod destination {
    pub(crate) use crate::binary;
}

use binary::{Decoder, Next};
use error::Error;

const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const LONGEST: i32 = 0x3fff_ffff;

/// What a type's values look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    /// So many bytes, in the server's order.
    Number(usize),
    Date,
    Timestamp,
    Text,
    Any,
    Uuid,
    /// By a receive function that takes all.
    Received,
    Counted,
    NotNull,
}

/// OID, modifier.
const TYPES: &[(u32, i32, Kind)] = &[
    (16, -1, Kind::Bool),
    (18, -1, Kind::Number(1)),
    (21, -1, Kind::Number(2)),
    (23, -1, Kind::Number(4)),
    (26, -1, Kind::Number(4)),
    (700, -1, Kind::Number(4)),
    (20, -1, Kind::Number(8)),
    (701, -1, Kind::Number(8)),
    (1082, -1, Kind::Date),
    (1114, -1, Kind::Timestamp),
    (1184, -1, Kind::Timestamp),
    (25, -1, Kind::Text),
    (1043, -1, Kind::Text),
    (17, -1, Kind::Any),
    (2950, -1, Kind::Uuid),
    (1114, 3, Kind::Received),
    (1184, 0, Kind::Received),
    (1043, 20, Kind::Received),
    (1700, -1, Kind::Received),
    (server::COUNTED, -1, Kind::Counted),
    (server::NOT_NULL, 7, Kind::NotNull),
];

const DAYS: &[i32] =
    &[i32::MIN, i32::MAX, i32::MIN + 1, i32::MAX - 1, -2_451_546, -2_451_545, 2_145_031_948, 2_145_031_949];
const TIMES: &[i64] = &[
    i64::MIN,
    i64::MAX,
    i64::MIN + 1,
    i64::MAX - 1,
    -211_813_488_000_000_001,
    -211_813_488_000_000_000,
    9_223_371_331_199_999_999,
    9_223_371_331_200_000_000,
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Null,
    Number(u64),
    Bytes(Vec<u8>),
}

type Row = Vec<Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Refused,
    Raised,
}

struct Table {
    /// None: dropped.
    attributes: Vec<Option<(u32, i32, Kind)>>,
    /// Of the stream: places of attributes.
    columns: Vec<usize>,
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let _ = check(&mut input);
    server::reset_all();
});

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let table = table(input)?;
    let (first, most) = (input.int_in_range(1..=64)?, input.int_in_range(1..=512)?);
    let pieces: Vec<u8> = (0..input.int_in_range(1..=8)?).map(|_| input.arbitrary()).collect::<Result<_>>()?;
    let stream = stream(input, &table)?;

    refuses_other_columns(&table);
    let (rows, verdict, end) = plain(&table, &stream, usize::MAX);
    check_whole(&table, &stream, &rows, verdict, end);

    let room = std::iter::successors(Some(first), |room| Some(room * 2)).find(|room| *room >= most).unwrap_or(first);
    let (rows, verdict, _) = plain(&table, &stream, room);
    assert_eq!(in_pieces(&table, &stream, &pieces, first, most), (rows, verdict));
    Ok(())
}

fn table(input: &mut Unstructured<'_>) -> Result<Table> {
    let mut attributes = Vec::new();
    for _ in 0..input.int_in_range(0..=6)? {
        let kind = *input.choose(TYPES)?;
        attributes.push(if input.ratio(1, 8)? { None } else { Some(kind) });
    }
    let mut columns: Vec<usize> = (0..attributes.len()).filter(|place| attributes[*place].is_some()).collect();
    for place in 1..columns.len() {
        columns.swap(place, input.int_in_range(0..=place)?);
    }
    Ok(Table { attributes, columns })
}

/// Mostly one that could be sent, with something wrong in it now and then.
fn stream(input: &mut Unstructured<'_>, table: &Table) -> Result<Vec<u8>> {
    let mut stream = if input.ratio(7, 8)? { HEADER.to_vec() } else { Vec::new() };
    if input.ratio(1, 8)? {
        stream.extend(input.bytes(input.len())?);
        return Ok(stream);
    }
    for _ in 0..input.int_in_range(0..=6)? {
        let count = if input.ratio(1, 32)? { input.arbitrary()? } else { table.columns.len() as i16 };
        stream.extend(count.to_be_bytes());
        for place in &table.columns {
            if let Some((_, _, kind)) = table.attributes[*place] {
                field(input, kind, &mut stream)?;
            }
        }
    }
    if input.ratio(7, 8)? {
        stream.extend((-1i16).to_be_bytes());
    }
    match input.int_in_range(0..=7)? {
        0 => stream.extend(input.arbitrary::<[u8; 2]>()?),
        1 => stream.truncate(input.int_in_range(0..=stream.len())?),
        2 if !stream.is_empty() => {
            for _ in 0..input.int_in_range(1..=3)? {
                let at = input.choose_index(stream.len())?;
                stream[at] = input.arbitrary()?;
            }
        }
        _ => {}
    }
    Ok(stream)
}

fn field(input: &mut Unstructured<'_>, kind: Kind, stream: &mut Vec<u8>) -> Result<()> {
    let bytes = |input: &mut Unstructured<'_>, length: usize| -> Result<Vec<u8>> {
        (0..length).map(|_| input.arbitrary()).collect()
    };
    let any = input.int_in_range(0..=24)?;
    let choice = input.int_in_range(0..=31)?;
    let value = match (choice, kind) {
        (0..=3, _) => {
            stream.extend((-1i32).to_be_bytes());
            return Ok(());
        }
        (4, _) => {
            stream.extend(input.choose(&[-2, i32::MIN, i32::MAX, LONGEST, LONGEST + 1])?.to_be_bytes());
            return Ok(());
        }
        (5, _) => bytes(input, any)?,
        (6..=12, Kind::Date) => input.choose(DAYS)?.to_be_bytes().to_vec(),
        (6..=12, Kind::Timestamp) => input.choose(TIMES)?.to_be_bytes().to_vec(),
        (6..=8, Kind::Text) => bytes(input, any)?,
        (_, Kind::Bool) => bytes(input, 1)?,
        (_, Kind::Number(length)) => bytes(input, length)?,
        (_, Kind::Date) => bytes(input, 4)?,
        (_, Kind::Timestamp) => bytes(input, 8)?,
        (_, Kind::Uuid) => bytes(input, 16)?,
        (_, Kind::Text) => "aß€😀".repeat(any).chars().take(any).collect::<String>().into_bytes(),
        (_, Kind::Any | Kind::Received | Kind::NotNull) => bytes(input, any)?,
        (_, Kind::Counted) => {
            let mut value = bytes(input, any + 1)?;
            value[0] = any as u8;
            value
        }
    };
    stream.extend((value.len() as i32).to_be_bytes());
    stream.extend(value);
    Ok(())
}

/// The rows of a stream, what becomes of it, and where and at what a decoder stops. No row may need more room.
fn plain(table: &Table, stream: &[u8], room: usize) -> (Vec<Row>, Verdict, End) {
    let mut rows = Vec::new();
    if stream.len() < HEADER.len() || room < HEADER.len() {
        return (rows, Verdict::Refused, End { at: 0, next: Next::Incomplete });
    }
    if stream[..HEADER.len()] != *HEADER {
        return (rows, Verdict::Refused, End { at: 0, next: Next::Malformed });
    }
    let mut at = HEADER.len();
    loop {
        let stopped = |verdict, at, next| (verdict, End { at, next });
        let rest = &stream[at..];
        let (verdict, end) = match fields(rest, table.columns.len()) {
            Err(next) => stopped(Verdict::Refused, at, next),
            Ok((None, length)) if length == rest.len() => stopped(Verdict::Accepted, at + length, Next::End),
            Ok((None, length)) => stopped(Verdict::Refused, at + length, Next::End),
            Ok((Some(_), length)) if length > room => stopped(Verdict::Refused, at, Next::Incomplete),
            Ok((Some(fields), length)) => match row(table, &fields) {
                Ok(row) => {
                    rows.push(row);
                    at += length;
                    continue;
                }
                Err(verdict) => stopped(verdict, at, Next::Malformed),
            },
        };
        return (rows, verdict, end);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct End {
    at: usize,
    next: Next,
}

/// The fields of the row at the beginning, and its length; without fields, it is the trailer.
fn fields(data: &[u8], columns: usize) -> std::result::Result<(Option<Vec<Option<&[u8]>>>, usize), Next> {
    let number = |at: usize, length: usize| -> std::result::Result<i64, Next> {
        let bytes = data.get(at..at + length).ok_or(Next::Incomplete)?;
        let unsigned = bytes.iter().fold(0, |number, byte| number * 256 + i64::from(*byte));
        let half = 1 << (8 * length - 1);
        Ok(if unsigned < half { unsigned } else { unsigned - 2 * half })
    };
    match number(0, 2)? {
        -1 => return Ok((None, 2)),
        count if count != columns as i64 => return Err(Next::Malformed),
        _ => {}
    }
    let mut at = 2;
    let mut fields = Vec::new();
    for _ in 0..columns {
        let length = number(at, 4)?;
        at += 4;
        if length == -1 {
            fields.push(None);
        } else if (0..=i64::from(LONGEST)).contains(&length) {
            let end = at + length as usize;
            fields.push(Some(data.get(at..end).ok_or(Next::Incomplete)?));
            at = end;
        } else {
            return Err(Next::Malformed);
        }
    }
    Ok((Some(fields), at))
}

fn row(table: &Table, fields: &[Option<&[u8]>]) -> std::result::Result<Row, Verdict> {
    let mut row = vec![Value::Null; table.attributes.len()];
    for (place, bytes) in table.columns.iter().zip(fields) {
        let Some((_, typmod, kind)) = table.attributes[*place] else { unreachable!("a dropped column") };
        row[*place] = match bytes {
            Some(bytes) => value(kind, typmod, bytes)?,
            None if kind == Kind::NotNull => return Err(Verdict::Raised),
            None => Value::Null,
        };
    }
    Ok(row)
}

fn value(kind: Kind, typmod: i32, bytes: &[u8]) -> std::result::Result<Value, Verdict> {
    let number = bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let received = |bytes: &[u8]| Value::Bytes([bytes, &typmod.to_ne_bytes()].concat());
    let fits = match kind {
        Kind::Bool => bytes.len() == 1,
        Kind::Number(length) => bytes.len() == length,
        Kind::Uuid => bytes.len() == 16,
        Kind::Date => {
            let days = i64::from(number as u32 as i32);
            // From 4714-11-24 BC to the end of 5874897 AD, or infinite.
            bytes.len() == 4
                && (days == i64::from(i32::MIN)
                    || days == i64::from(i32::MAX)
                    || (days >= -2_451_545 && days < 2_147_483_494 - 2_451_545))
        }
        Kind::Timestamp => {
            let time = i128::from(number as i64);
            let day = 86_400_000_000;
            // From 4714-11-24 BC to the end of 294276 AD, or infinite.
            bytes.len() == 8
                && (time == i128::from(i64::MIN)
                    || time == i128::from(i64::MAX)
                    || (time >= -2_451_545 * day && time < (109_203_528 - 2_451_545) * day))
        }
        _ => true,
    };
    if !fits {
        return Err(Verdict::Refused);
    }
    Ok(match kind {
        Kind::Bool => Value::Number(u64::from(number != 0)),
        Kind::Number(_) | Kind::Date | Kind::Timestamp => Value::Number(number),
        Kind::Text if bytes.contains(&0) || std::str::from_utf8(bytes).is_err() => return Err(Verdict::Raised),
        Kind::Text | Kind::Any | Kind::Uuid => Value::Bytes(bytes.to_vec()),
        Kind::Received | Kind::NotNull => received(bytes),
        Kind::Counted => match bytes.split_first() {
            Some((count, rest)) if rest.len() == usize::from(*count) => received(rest),
            Some((count, rest)) if rest.len() > usize::from(*count) => return Err(Verdict::Refused),
            _ => return Err(Verdict::Raised),
        },
    })
}

/// A relation of which only the descriptor is there.
struct Relation {
    descriptor: Vec<u64>,
    relation: Box<pg_sys::RelationData>,
}

impl Relation {
    fn of(table: &Table) -> Relation {
        let size = server::tuple_descriptor_size(table.attributes.len());
        let mut descriptor = vec![0u64; size.div_ceil(8)];
        // SAFETY: zeros are a valid value of all that is in it.
        let mut relation: Box<pg_sys::RelationData> = unsafe { Box::new(std::mem::zeroed()) };
        // SAFETY: the descriptor has room for all attributes.
        unsafe {
            let start = descriptor.as_mut_ptr().cast::<pg_sys::TupleDescData>();
            (*start).natts = table.attributes.len() as i32;
            let first = (&raw mut (*start).attrs).cast::<pg_sys::FormData_pg_attribute>();
            for (place, attribute) in table.attributes.iter().enumerate() {
                let form = &mut *first.add(place);
                form.attnum = place as i16 + 1;
                form.attisdropped = attribute.is_none();
                if let Some((oid, typmod, _)) = attribute {
                    (form.atttypid, form.atttypmod) = (pg_sys::Oid::from(*oid), *typmod);
                }
                for (to, from) in form.attname.data.iter_mut().zip(name(place).bytes()) {
                    *to = from as std::os::raw::c_char;
                }
            }
            relation.rd_att = start;
        }
        Relation { descriptor, relation }
    }

    fn decoder(&mut self, columns: &[String]) -> Option<Decoder> {
        assert!(!self.descriptor.is_empty());
        // SAFETY: the decoder keeps nothing of the relation.
        unsafe { Decoder::of(&mut *self.relation, columns) }
    }
}

fn name(place: usize) -> String {
    format!("c{place}")
}

fn decoder(table: &Table) -> Decoder {
    let columns: Vec<String> = table.columns.iter().map(|place| name(*place)).collect();
    Relation::of(table).decoder(&columns).expect("a decoder for all columns")
}

fn refuses_other_columns(table: &Table) {
    let mut columns: Vec<String> = table.columns.iter().map(|place| name(*place)).collect();
    if let Some(last) = columns.pop() {
        assert!(Relation::of(table).decoder(&columns).is_none());
        columns.push(format!("{last}x"));
        assert!(Relation::of(table).decoder(&columns).is_none());
        columns.pop();
        columns.push(last);
    }
    columns.push(name(table.attributes.len()));
    assert!(Relation::of(table).decoder(&columns).is_none());
}

/// Decodes one row out of bytes that end where they end, and reads its values back.
fn decode(table: &Table, decoder: &mut Decoder, data: &[u8], at: &mut usize) -> (Next, Option<Row>) {
    server::reset_memory();
    let count = table.attributes.len();
    let mut values = vec![pg_sys::Datum::from(usize::MAX); count].into_boxed_slice();
    let mut nulls = vec![false; count].into_boxed_slice();
    // SAFETY: there is room for all attributes.
    let next = unsafe { decoder.row(data, at, values.as_mut_ptr(), nulls.as_mut_ptr()) };
    let row = (next == Next::Row).then(|| {
        let read = |(place, attribute): (usize, &Option<(u32, i32, Kind)>)| match attribute {
            // SAFETY: the decoder says that there is a value of the type.
            Some((_, _, kind)) if !nulls[place] => unsafe { read_back(*kind, values[place]) },
            _ => {
                assert!(nulls[place] && values[place].value() == 0);
                Value::Null
            }
        };
        table.attributes.iter().enumerate().map(read).collect()
    });
    (next, row)
}

unsafe fn read_back(kind: Kind, value: pg_sys::Datum) -> Value {
    let number = value.value() as u64;
    match kind {
        Kind::Bool | Kind::Number(8) | Kind::Timestamp => Value::Number(number),
        // What is above the bytes is not stored.
        Kind::Number(length) => Value::Number(number & ((1 << (8 * length)) - 1)),
        Kind::Date => Value::Number(number & 0xffff_ffff),
        Kind::Uuid => Value::Bytes(std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), 16).to_vec()),
        _ => {
            let word = value.cast_mut_ptr::<u32>().read();
            assert_eq!(word & 3, 0);
            let bytes = std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), word as usize >> 2);
            Value::Bytes(bytes[4..].to_vec())
        }
    }
}

/// Runs what may raise an error; None if it did.
fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    match std::panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => Some(done),
        Err(raised) if raised.is::<server::Raised>() => None,
        Err(other) => std::panic::resume_unwind(other),
    }
}

fn check_whole(table: &Table, stream: &[u8], expected: &[Row], verdict: Verdict, end: End) {
    let mut decoder = decoder(table);
    let stream: Box<[u8]> = stream.into();
    let mut at = 0;
    for row in expected {
        assert_eq!(decode(table, &mut decoder, &stream, &mut at), (Next::Row, Some(row.clone())));
    }
    match caught(|| decode(table, &mut decoder, &stream, &mut at)) {
        None => assert_eq!(verdict, Verdict::Raised),
        Some((next, row)) => {
            assert_ne!(verdict, Verdict::Raised);
            assert_eq!((End { at, next }, row), (end, None));
        }
    }
}

fn in_pieces(table: &Table, stream: &[u8], pieces: &[u8], first: usize, most: usize) -> (Vec<Row>, Verdict) {
    let mut decoder = decoder(table);
    let mut rows = Vec::new();
    let sent = std::cell::Cell::new(0);
    let mut sizes = pieces.iter().cycle();
    let mut ended = 0;
    let mut reader = |buffer: &mut [u8], at_least: usize| {
        assert!(at_least <= buffer.len());
        let rest = &stream[sent.get()..];
        let size = usize::from(*sizes.next().expect("there is one")).max(at_least).min(rest.len()).min(buffer.len());
        buffer[..size].copy_from_slice(&rest[..size]);
        sent.set(sent.get() + size);
        ended += usize::from(rest.is_empty());
        assert!(ended <= 1, "read again behind the end");
        Ok(size)
    };
    let outcome = caught(|| {
        stream::decode(&mut reader, first, most, |data, came| {
            assert_eq!(came, sent.get());
            let data: Box<[u8]> = data.into();
            let mut at = 0;
            loop {
                match decode(table, &mut decoder, &data, &mut at) {
                    (Next::Row, row) => rows.extend(row),
                    (next, _) => return (next, at),
                }
            }
        })
    });
    let verdict = match outcome {
        None => Verdict::Raised,
        Some(Ok(())) => {
            assert_eq!((sent.get(), ended), (stream.len(), 1));
            Verdict::Accepted
        }
        Some(Err(error)) => {
            assert_eq!(error, Error::MalformedStream);
            Verdict::Refused
        }
    };
    (rows, verdict)
}
