//! Streams.

use std::ffi::{c_int, c_uint, c_void};

use crate::capture::{forbid_waiting_for, issue};
use crate::error::{Answer, CUresult, put};
use crate::launch::{AttributeValue, Work};
use crate::queue;
use crate::state::{Object, Stream, UNNAMED_STREAMS, driver};

/// Priorities are from 0 to this; they change nothing.
pub const GREATEST_PRIORITY: c_int = -5;

fn create(flags: c_uint, priority: c_int) -> Answer<u64> {
    let device = driver().device()?;
    if flags & !1 != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(driver().keep(Object::Stream(Stream { device, flags, priority: priority.clamp(GREATEST_PRIORITY, 0) })))
}

/// Waits for all work of a stream.
fn synchronize(stream: u64) -> Answer<()> {
    driver().stream(stream)?;
    forbid_waiting_for(stream)?;
    queue::finish_stream(stream)
}

/// Whether all work of a stream is done.
fn query(stream: u64) -> Answer<()> {
    driver().stream(stream)?;
    forbid_waiting_for(stream)?;
    queue::pump();
    driver().check()?;
    if queue::is_done(stream)? { Ok(()) } else { Err(CUresult::NOT_READY) }
}

/// A word of memory that a stream writes or waits for.
#[derive(Clone, Copy, Debug)]
pub struct WordOperation {
    address: u64,
    value: u64,
    bytes: usize,
    /// `CUstreamWaitValue_flags`
    comparison: c_uint,
}

impl WordOperation {
    fn new(address: u64, value: u64, bytes: usize, comparison: c_uint) -> Answer<WordOperation> {
        let operation = WordOperation { address, value, bytes, comparison };
        if !address.is_multiple_of(bytes as u64) {
            return Err(CUresult::INVALID_VALUE);
        }
        operation.read().map(|_| operation)
    }

    fn read(&self) -> Answer<u64> {
        let mut word = [0; 8];
        let view = driver().memory.view();
        view.copy_out(self.address, &mut word[..self.bytes]).ok_or(CUresult::INVALID_VALUE)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Writes the word.
    pub fn write(&self) -> Answer<()> {
        let word = self.value.to_le_bytes();
        driver().memory.view().copy_in(self.address, &word[..self.bytes]).ok_or(CUresult::INVALID_VALUE)
    }

    /// Whether the word is as wanted: at least, equal to, sharing a bit with, or not the complement of a value.
    pub fn is_met(&self) -> Answer<bool> {
        let (found, shift) = (self.read()?, 64 - 8 * self.bytes as u32);
        Ok(match self.comparison & 3 {
            0 => (found.wrapping_sub(self.value) << shift) as i64 >= 0,
            1 => found == self.value,
            2 => found & self.value != 0,
            _ => !(found | self.value) << shift != 0,
        })
    }
}

fn write_word(stream: u64, word: Answer<WordOperation>) -> Answer<()> {
    forbid_waiting_for(stream)?;
    issue(stream, Work::WriteWord(word?))
}

fn wait_for_word(stream: u64, word: Answer<WordOperation>) -> Answer<()> {
    forbid_waiting_for(stream)?;
    issue(stream, Work::WaitWord(word?))
}

/// A function of the program's, and what to give it.
#[derive(Clone, Copy)]
pub struct StreamCallback {
    function: unsafe extern "C" fn(u64, c_int, *mut c_void),
    stream: u64,
    data: *mut c_void,
}

// SAFETY: CUDA's contract: the function may be called with this on any thread.
unsafe impl Send for StreamCallback {}
// SAFETY: as above.
unsafe impl Sync for StreamCallback {}

impl StreamCallback {
    /// Calls it.
    pub fn run(&self) {
        // SAFETY: the program's function with the program's data.
        unsafe { (self.function)(self.stream, 0, self.data) }
    }
}

/// `CUstreamCallback`
type Callback = Option<unsafe extern "C" fn(u64, c_int, *mut c_void)>;

calls! {
    /// A new stream.
    fn cuStreamCreate(stream: *mut u64, flags: c_uint) {
        put(stream, create(flags, 0)?)
    }

    /// A new stream with a priority.
    fn cuStreamCreateWithPriority(stream: *mut u64, flags: c_uint, priority: c_int) {
        put(stream, create(flags, priority)?)
    }

    /// Drops a stream.
    fn cuStreamDestroy_v2(stream: u64) {
        driver().stream(stream)?;
        if stream <= UNNAMED_STREAMS {
            return Err(CUresult::INVALID_HANDLE);
        }
        driver().tables().captures.remove(&stream);
        driver().forget(stream).map(drop)
    }

    /// Waits for all work of a stream.
    fn cuStreamSynchronize(stream: u64) {
        synchronize(stream)
    }

    /// Whether all work of a stream is done.
    fn cuStreamQuery(stream: u64) {
        query(stream)
    }

    /// The context of a stream.
    fn cuStreamGetCtx(stream: u64, context: *mut u64) {
        put(context, driver().primary_context(driver().stream(stream)?.device)?)
    }

    /// The device of a stream.
    fn cuStreamGetDevice(stream: u64, device: *mut c_int) {
        put(device, driver().stream(stream)?.device as c_int)
    }

    /// What a stream was created with.
    fn cuStreamGetFlags(stream: u64, flags: *mut c_uint) {
        put(flags, driver().stream(stream)?.flags)
    }

    /// What a stream was created with.
    fn cuStreamGetPriority(stream: u64, priority: *mut c_int) {
        put(priority, driver().stream(stream)?.priority)
    }

    /// A number that no other stream has.
    fn cuStreamGetId(stream: u64, id: *mut u64) {
        driver().stream(stream)?;
        put(id, stream)
    }

    /// Attributes change nothing.
    fn cuStreamGetAttribute(stream: u64, _attribute: c_int, value: *mut AttributeValue) {
        driver().stream(stream)?;
        put(value, AttributeValue::default())
    }

    /// Attributes change nothing.
    fn cuStreamSetAttribute(stream: u64, _attribute: c_int, value: *const AttributeValue) {
        driver().stream(stream)?;
        if value.is_null() { Err(CUresult::INVALID_VALUE) } else { Ok(()) }
    }

    /// Attributes change nothing.
    fn cuStreamCopyAttributes(to: u64, from: u64) {
        driver().stream(to)?;
        driver().stream(from).map(drop)
    }

    /// Calls the program once the work before is done.
    fn cuStreamAddCallback(stream: u64, callback: Callback, data: *mut c_void, flags: c_uint) {
        driver().stream(stream)?;
        forbid_waiting_for(stream)?;
        let callback = callback.ok_or(CUresult::INVALID_VALUE)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        issue(stream, Work::Callback(StreamCallback { function: callback, stream, data }))
    }

    /// Writes a word.
    fn cuStreamWriteValue32_v2(stream: u64, address: u64, value: u32, _flags: c_uint) {
        write_word(stream, WordOperation::new(address, u64::from(value), 4, 0))
    }

    /// Writes a word.
    fn cuStreamWriteValue64_v2(stream: u64, address: u64, value: u64, _flags: c_uint) {
        write_word(stream, WordOperation::new(address, value, 8, 0))
    }

    /// Waits for a word.
    fn cuStreamWaitValue32_v2(stream: u64, address: u64, value: u32, flags: c_uint) {
        wait_for_word(stream, WordOperation::new(address, u64::from(value), 4, flags))
    }

    /// Waits for a word.
    fn cuStreamWaitValue64_v2(stream: u64, address: u64, value: u64, flags: c_uint) {
        wait_for_word(stream, WordOperation::new(address, value, 8, flags))
    }
}
