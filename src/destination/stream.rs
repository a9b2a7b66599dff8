//! A stream of COPY data that comes in pieces: what has come of it and is not done with.

use crate::backend::interrupts;
use crate::destination::binary::Next;
use crate::error::{Error, Result};

/// Where the stream comes from: fills the buffer with at least so many bytes, or fewer at the end.
pub type Reader<'a> = dyn FnMut(&mut [u8], usize) -> Result<usize> + 'a;

/// Reads a stream to its end, through a buffer that has `first` bytes and grows to `most` for what needs them. `decode`
/// gets what is there and how many bytes came in all; it says what stopped it, and how many of the bytes it is done with.
///
/// # Errors
/// MalformedStream, also if the stream ends too early or too late.
pub fn decode(
    reader: &mut Reader<'_>,
    first: usize,
    most: usize,
    mut decode: impl FnMut(&[u8], usize) -> (Next, usize),
) -> Result<()> {
    let mut buffer = vec![0; first];
    let (mut filled, mut bytes) = (0, 0);
    loop {
        interrupts::check();
        let came = reader(&mut buffer[filled..], 1)?;
        filled += came;
        bytes += came;
        let (next, consumed) = decode(&buffer[..filled], bytes);
        buffer.copy_within(consumed..filled, 0);
        filled -= consumed;
        match next {
            // COPY itself refuses what comes after the trailer, too.
            Next::End if filled > 0 || reader(&mut buffer, 1)? > 0 => return Err(Error::MalformedStream),
            Next::End => return Ok(()),
            Next::Malformed => return Err(Error::MalformedStream),
            _ if came == 0 => return Err(Error::MalformedStream),
            _ if filled == buffer.len() => {
                let more = buffer.len();
                if more >= most {
                    return Err(Error::MalformedStream);
                }
                buffer.try_reserve_exact(more).map_err(|_| Error::MalformedStream)?;
                buffer.resize(more * 2, 0);
            }
            _ => {}
        }
    }
}
