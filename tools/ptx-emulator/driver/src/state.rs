//! What the driver keeps: the chip, contexts, and what handles stand for.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ptx_emulator::chip::{CHIPS, Chip};
use ptx_emulator::decode::Module;
use ptx_emulator::machine::kernel::Kernel;
use ptx_emulator::memory::global::Memory;

use crate::error::{Answer, CUresult};
use crate::launch::Recording;

/// The environment variable that picks the chip.
pub const CHIP_VARIABLE: &str = "PTX_EMULATOR_CHIP";
/// The environment variable that says how many devices there are.
pub const DEVICES_VARIABLE: &str = "PTX_EMULATOR_DEVICES";
/// The environment variable that says how much memory a device has, in GiB.
pub const MEMORY_VARIABLE: &str = "PTX_EMULATOR_MEMORY";
/// The environment variable that varies the order of warps.
pub const SEED_VARIABLE: &str = "PTX_EMULATOR_SEED";

/// What a handle stands for.
#[derive(Clone)]
pub enum Object {
    /// A device's context.
    Context(u32),
    /// A module.
    Module(Arc<Module>),
    /// A kernel, and the module that keeps its variables.
    Function(Arc<Kernel>, Arc<Module>),
    /// A stream of a device.
    Stream(u32),
    /// An event; when it was recorded.
    Event(Option<std::time::Instant>),
    /// A recorded graph, or one that is made ready to launch.
    Graph(Arc<Recording>),
}

/// The driver.
pub struct Driver {
    /// Global memory of all devices.
    pub memory: Arc<Memory>,
    tables: Mutex<Tables>,
}

/// What changes.
#[derive(Default)]
pub struct Tables {
    chosen: Option<&'static Chip>,
    next: u64,
    objects: HashMap<u64, Object>,
    contexts: HashMap<u32, u64>,
    /// Functions by module and name, so that asking twice gives the same handle.
    pub functions: HashMap<(u64, String), u64>,
    /// The error that stopped a context's kernels.
    pub sticky: Option<CUresult>,
    /// What streams record while they are captured, by handle.
    pub captures: HashMap<u64, Recording>,
}

thread_local! {
    /// The current contexts of this thread, the innermost last; a handle each.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// The driver of this process.
pub fn driver() -> &'static Driver {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    DRIVER.get_or_init(|| Driver {
        memory: Arc::default(),
        // Handles look like pointers that are none.
        tables: Mutex::new(Tables { next: 0x1000, ..Tables::default() }),
    })
}

impl Driver {
    /// The tables, locked.
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The emulated chip.
    pub fn chip(&self) -> &'static Chip {
        let mut tables = self.tables();
        tables.chosen.get_or_insert_with(|| {
            let Ok(name) = std::env::var(CHIP_VARIABLE) else { return &CHIPS[0] };
            Chip::named(&name).unwrap_or_else(|| {
                let known: Vec<_> = CHIPS.iter().map(|chip| chip.name).collect();
                eprintln!(
                    "ptx-emulator: {CHIP_VARIABLE}={name} is not a chip ({}); using {}",
                    known.join(", "),
                    CHIPS[0].name
                );
                &CHIPS[0]
            })
        })
    }

    /// Whether the chip was chosen by the program or its user, so that modules for another one are refused.
    pub fn chip_is_chosen(&self) -> bool {
        std::env::var_os(CHIP_VARIABLE).is_some() || self.tables().chosen.is_some_and(|chip| chip.name != CHIPS[0].name)
    }

    /// Picks the chip; false if it is unknown or another one is in use.
    pub fn choose(&self, name: &str) -> bool {
        let Some(chip) = Chip::named(name) else { return false };
        let mut tables = self.tables();
        let before = *tables.chosen.get_or_insert(chip);
        before == chip
    }

    /// How many devices there are.
    pub fn devices(&self) -> u32 {
        let wanted = std::env::var(DEVICES_VARIABLE).ok().and_then(|count| count.parse().ok());
        wanted.unwrap_or(1).clamp(1, 72)
    }

    /// Bytes of memory of a device.
    pub fn memory_bytes(&self) -> u64 {
        let wanted = std::env::var(MEMORY_VARIABLE).ok().and_then(|count| count.parse::<u64>().ok());
        wanted.unwrap_or(80).clamp(1, 1 << 20) << 30
    }

    /// Keeps an object, and gives its handle.
    pub fn keep(&self, object: Object) -> u64 {
        self.tables().keep(object)
    }

    /// What a handle stands for.
    pub fn find(&self, handle: u64) -> Answer<Object> {
        self.tables().objects.get(&handle).cloned().ok_or(CUresult::INVALID_HANDLE)
    }

    /// Drops what a handle stands for.
    pub fn forget(&self, handle: u64) -> Answer<Object> {
        self.tables().objects.remove(&handle).ok_or(CUresult::INVALID_HANDLE)
    }

    /// Changes what a handle stands for.
    pub fn replace(&self, handle: u64, object: Object) {
        self.tables().objects.insert(handle, object);
    }

    /// The context of a device.
    pub fn context(&self, device: u32) -> Answer<u64> {
        if device >= self.devices() {
            return Err(CUresult::INVALID_DEVICE);
        }
        let mut tables = self.tables();
        if let Some(context) = tables.contexts.get(&device) {
            return Ok(*context);
        }
        let context = tables.keep(Object::Context(device));
        tables.contexts.insert(device, context);
        Ok(context)
    }

    /// Makes a context current on this thread; 0 for none.
    pub fn set_current(&self, context: u64) -> Answer<()> {
        if context != 0 && !matches!(self.find(context), Ok(Object::Context(_))) {
            return Err(CUresult::INVALID_CONTEXT);
        }
        CURRENT.set(context);
        Ok(())
    }

    /// The current context's handle, or 0.
    pub fn current(&self) -> u64 {
        CURRENT.get()
    }

    /// The device of the current context.
    pub fn device(&self) -> Answer<u32> {
        match self.find(CURRENT.get()) {
            Ok(Object::Context(device)) => Ok(device),
            _ => Err(CUresult::INVALID_CONTEXT),
        }
    }

    /// The error of an earlier kernel, if one failed.
    pub fn check(&self) -> Answer<()> {
        self.tables().sticky.map_or(Ok(()), Err)
    }
}

impl Tables {
    fn keep(&mut self, object: Object) -> u64 {
        self.next += 0x10;
        self.objects.insert(self.next, object);
        self.next
    }
}

/// Picks the chip by name, before the first device is used; 0 where that works.
///
/// # Safety
/// `name` is null or a text that ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptx_emulator_select_chip(name: *const std::ffi::c_char) -> std::ffi::c_int {
    if name.is_null() {
        return 1;
    }
    // SAFETY: the caller's.
    let name = unsafe { std::ffi::CStr::from_ptr(name) };
    i32::from(!name.to_str().is_ok_and(|name| driver().choose(name)))
}
