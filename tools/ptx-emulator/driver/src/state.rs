//! What the driver keeps: the chip, contexts, and what handles stand for.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ptx_emulator::chip::{CHIPS, Chip};
use ptx_emulator::decode::Module;
use ptx_emulator::memory::global::Memory;

use crate::capture::Capture;
use crate::error::{Answer, CUresult};
use crate::event::Event;
use crate::function::Function;
use crate::graph::{Executable, Graph};
use crate::linker::Linker;
use crate::queue::Queues;

/// The environment variable that picks the chip.
pub const CHIP_VARIABLE: &str = "PTX_EMULATOR_CHIP";
/// The environment variable that says how many devices there are.
pub const DEVICES_VARIABLE: &str = "PTX_EMULATOR_DEVICES";
/// The environment variable that says how much memory a device has, in GiB.
pub const MEMORY_VARIABLE: &str = "PTX_EMULATOR_MEMORY";
/// The environment variable that varies the orders of warps and of streams.
pub const SEED_VARIABLE: &str = "PTX_EMULATOR_SEED";

/// The number that varies orders; 0 keeps them.
pub fn seed() -> u64 {
    std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok()).unwrap_or(0)
}

/// The environment variable that says how many instructions a warp may run.
pub const LIMIT_VARIABLE: &str = "PTX_EMULATOR_LIMIT";

/// How many instructions a warp may run.
pub fn instruction_limit() -> u64 {
    std::env::var(LIMIT_VARIABLE).ok().and_then(|limit| limit.parse().ok()).unwrap_or(u64::MAX)
}

/// The environment variable that turns the checker off (0) or on (1).
pub const CHECK_VARIABLE: &str = "PTX_EMULATOR_CHECK";

/// Whether launches are checked.
pub fn checks() -> bool {
    std::env::var(CHECK_VARIABLE).map_or(true, |check| check != "0")
}

/// What a handle stands for.
#[derive(Clone)]
pub enum Object {
    /// A context of a device, and whether it is the device's primary one.
    Context(u32, bool),
    /// A module, or a library.
    Module(Arc<Module>),
    /// A kernel of a module, or of a library.
    Function(Arc<Function>),
    /// A stream.
    Stream(Stream),
    /// An event.
    Event(Arc<Mutex<Event>>),
    /// A graph.
    Graph(Arc<Mutex<Graph>>),
    /// A node of the graph of this handle.
    Node(u64),
    /// A graph that is ready to launch.
    Executable(Arc<Mutex<Executable>>),
    /// Modules that become one.
    Linker(Arc<Mutex<Linker>>),
}

/// A stream.
#[derive(Clone, Copy)]
pub struct Stream {
    /// Its device.
    pub device: u32,
    /// What it was created with: 1 where the null stream does not wait for it.
    pub flags: u32,
    /// What it was created with, clamped to what there is.
    pub priority: i32,
}

/// Streams that have no handle of their own: null, legacy and per-thread.
pub const UNNAMED_STREAMS: u64 = 2;

/// The driver.
pub struct Driver {
    /// Global memory of all devices.
    pub memory: Arc<Memory>,
    /// The work that streams have to do.
    pub queues: Queues,
    initialized: AtomicBool,
    tables: Mutex<Tables>,
}

/// How memory came to be, which says how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `cuMemAlloc` and its siblings.
    Device,
    /// `cuMemAllocHost` and `cuMemHostAlloc`, with their flags.
    Host(u32),
    /// `cuMemAllocManaged`.
    Managed,
    /// `cuMemHostRegister`, with its flags.
    Registered(u32),
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
    /// What programs allocated, by its first address.
    pub origins: HashMap<u64, Origin>,
    /// The error that stopped a context's kernels.
    pub sticky: Option<CUresult>,
    /// Streams that record, by handle.
    pub captures: HashMap<u64, Capture>,
    /// Peers whose access is enabled: from a device, to a device.
    pub peers: HashSet<(u32, u32)>,
}

thread_local! {
    /// The current contexts of this thread, the innermost last; a handle each.
    static CURRENT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The driver of this process.
pub fn driver() -> &'static Driver {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    DRIVER.get_or_init(|| Driver {
        memory: Arc::new(if checks() { Memory::followed() } else { Memory::default() }),
        queues: Queues::default(),
        initialized: AtomicBool::new(false),
        // Handles look like pointers that are none.
        tables: Mutex::new(Tables { next: 0x1000, ..Tables::default() }),
    })
}

/// Locks what a handle stands for; a panic of another thread changes nothing about it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Declares the lookup of one kind of object.
macro_rules! lookups {
    ($($(#[$doc:meta])* $name:ident: $kind:ident => $type:ty;)*) => {
        impl Driver {
            $(
                $(#[$doc])*
                pub fn $name(&self, handle: u64) -> Answer<$type> {
                    match self.find(handle)? {
                        Object::$kind(found) => Ok(found),
                        _ => Err(CUresult::INVALID_HANDLE),
                    }
                }
            )*
        }
    };
}

lookups! {
    /// A module by its handle.
    module: Module => Arc<Module>;
    /// A kernel by its handle.
    function: Function => Arc<Function>;
    /// An event by its handle.
    event: Event => Arc<Mutex<Event>>;
    /// A graph by its handle.
    graph: Graph => Arc<Mutex<Graph>>;
    /// The handle of a node's graph.
    graph_of: Node => u64;
    /// A graph that is ready by its handle.
    executable: Executable => Arc<Mutex<Executable>>;
    /// A linker by its handle.
    linker: Linker => Arc<Mutex<Linker>>;
}

impl Driver {
    /// The tables, locked.
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }

    /// Starts the driver.
    pub fn initialize(&self) {
        self.chip();
        self.initialized.store(true, Ordering::Relaxed);
    }

    /// Whether the driver was started.
    pub fn started(&self) -> Answer<()> {
        if self.initialized.load(Ordering::Relaxed) { Ok(()) } else { Err(CUresult::NOT_INITIALIZED) }
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

    /// A stream by its handle; the unnamed ones are of the current device.
    pub fn stream(&self, handle: u64) -> Answer<Stream> {
        if handle <= UNNAMED_STREAMS {
            return Ok(Stream { device: self.device()?, flags: 0, priority: 0 });
        }
        match self.find(handle)? {
            Object::Stream(stream) => Ok(stream),
            _ => Err(CUresult::INVALID_HANDLE),
        }
    }

    /// The primary context of a device.
    pub fn primary_context(&self, device: u32) -> Answer<u64> {
        self.started()?;
        if device >= self.devices() {
            return Err(CUresult::INVALID_DEVICE);
        }
        let mut tables = self.tables();
        if let Some(context) = tables.contexts.get(&device) {
            return Ok(*context);
        }
        let context = tables.keep(Object::Context(device, true));
        tables.contexts.insert(device, context);
        Ok(context)
    }

    /// The device of a context.
    pub fn device_of(&self, context: u64) -> Answer<u32> {
        match self.find(context) {
            Ok(Object::Context(device, _)) => Ok(device),
            _ => Err(CUresult::INVALID_CONTEXT),
        }
    }

    /// Makes a context current on this thread in place of the one that is; 0 for none.
    pub fn set_current(&self, context: u64) -> Answer<()> {
        if context != 0 {
            self.device_of(context)?;
        }
        CURRENT.with_borrow_mut(|contexts| {
            contexts.pop();
            if context != 0 {
                contexts.push(context);
            }
        });
        Ok(())
    }

    /// Makes a context current on this thread until it is popped.
    pub fn push_current(&self, context: u64) -> Answer<()> {
        self.device_of(context)?;
        CURRENT.with_borrow_mut(|contexts| contexts.push(context));
        Ok(())
    }

    /// Makes the context before the current one current, and gives the latter.
    pub fn pop_current(&self) -> Answer<u64> {
        CURRENT.with_borrow_mut(Vec::pop).ok_or(CUresult::INVALID_CONTEXT)
    }

    /// The current context's handle, or 0.
    pub fn current(&self) -> u64 {
        CURRENT.with_borrow(|contexts| contexts.last().copied().unwrap_or(0))
    }

    /// The device of the current context.
    pub fn device(&self) -> Answer<u32> {
        self.started()?;
        self.device_of(self.current())
    }

    /// The error of an earlier kernel, if one failed.
    pub fn check(&self) -> Answer<()> {
        self.tables().sticky.map_or(Ok(()), Err)
    }
}

impl Tables {
    /// Keeps an object, and gives its handle.
    pub fn keep(&mut self, object: Object) -> u64 {
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
