//! Streams.

use std::ffi::{c_int, c_uint, c_void};
use std::time::{Duration, Instant};

use crate::capture::{forbid_waiting_for, issue};
use crate::error::{Answer, CUresult, put};
use crate::launch::{AttributeValue, Work};
use crate::state::{Object, Stream, UNNAMED_STREAMS, driver};

/// Priorities are from 0 to this; they change nothing.
pub const GREATEST_PRIORITY: c_int = -5;
/// For this long a stream waits for a word that another thread of the program is to write.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

fn create(flags: c_uint, priority: c_int) -> Answer<u64> {
    let device = driver().device()?;
    if flags & !1 != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(driver().keep(Object::Stream(Stream { device, flags, priority: priority.clamp(GREATEST_PRIORITY, 0) })))
}

/// All work is done when it is issued.
fn synchronize(stream: u64) -> Answer<()> {
    driver().stream(stream)?;
    forbid_waiting_for(stream)?;
    driver().check()
}

/// Words of memory that streams wait for and write.
trait MemoryWord: Copy + Into<u64> {
    const BYTES: usize;
}

impl MemoryWord for u32 {
    const BYTES: usize = 4;
}

impl MemoryWord for u64 {
    const BYTES: usize = 8;
}

fn write_word<W: MemoryWord>(stream: u64, address: u64, value: W) -> Answer<()> {
    driver().stream(stream)?;
    forbid_waiting_for(stream)?;
    driver().check()?;
    if !address.is_multiple_of(W::BYTES as u64) {
        return Err(CUresult::INVALID_VALUE);
    }
    let bytes = value.into().to_le_bytes();
    driver().memory.view().copy_in(address, &bytes[..W::BYTES]).ok_or(CUresult::INVALID_VALUE)
}

/// Waits until a word of memory is as wanted: at least, equal to, sharing a bit with, or not the complement of a value.
fn wait_for_word<W: MemoryWord>(stream: u64, address: u64, value: W, flags: c_uint) -> Answer<()> {
    driver().stream(stream)?;
    forbid_waiting_for(stream)?;
    driver().check()?;
    if !address.is_multiple_of(W::BYTES as u64) {
        return Err(CUresult::INVALID_VALUE);
    }
    let (wanted, shift) = (value.into(), 64 - 8 * W::BYTES as u32);
    let until = Instant::now() + LONGEST_WAIT;
    loop {
        let mut bytes = [0; 8];
        let view = driver().memory.view();
        view.copy_out(address, &mut bytes[..W::BYTES]).ok_or(CUresult::INVALID_VALUE)?;
        let found = u64::from_le_bytes(bytes);
        let satisfied = match flags & 3 {
            0 => (found.wrapping_sub(wanted) << shift) as i64 >= 0,
            1 => found == wanted,
            2 => found & wanted != 0,
            _ => !(found | wanted) << shift != 0,
        };
        if satisfied {
            return Ok(());
        }
        if Instant::now() > until {
            crate::module::complain("a stream waits for a word that nothing writes: work is done when it is issued");
            return Err(CUresult::LAUNCH_TIMEOUT);
        }
        std::thread::sleep(Duration::from_millis(1));
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

    /// All work is done when it is issued.
    fn cuStreamSynchronize(stream: u64) {
        synchronize(stream)
    }

    /// As [`cuStreamSynchronize`].
    fn cuStreamQuery(stream: u64) {
        synchronize(stream)
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
        issue(stream, Work::Nothing)?;
        // SAFETY: the program's function with the program's data.
        callback(stream, 0, data);
        Ok(())
    }

    /// Writes a word.
    fn cuStreamWriteValue32_v2(stream: u64, address: u64, value: u32, _flags: c_uint) {
        write_word(stream, address, value)
    }

    /// Writes a word.
    fn cuStreamWriteValue64_v2(stream: u64, address: u64, value: u64, _flags: c_uint) {
        write_word(stream, address, value)
    }

    /// Waits for a word.
    fn cuStreamWaitValue32_v2(stream: u64, address: u64, value: u32, flags: c_uint) {
        wait_for_word(stream, address, value, flags)
    }

    /// Waits for a word.
    fn cuStreamWaitValue64_v2(stream: u64, address: u64, value: u64, flags: c_uint) {
        wait_for_word(stream, address, value, flags)
    }
}
