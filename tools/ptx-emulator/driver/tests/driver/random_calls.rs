//! Random calls of the driver API, with handles that are wrong, null pointers, freed memory and sizes beyond reason: each answers, and
//! nothing is written but where the API says.

use std::ffi::{CString, c_void};
use std::process::Command;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::library;

/// What arguments are: one letter each.
///
/// `o` a place for an answer, `c` a place for a count, which says 4, `h` a handle, `s` a stream, `d` a device's address, `p` memory of
/// the program, `n` a number of bytes, `b` one of bytes that the program's memory has, `i` a small number, `t` a text, `m` the text of a
/// module, `f` a function, `l` a list of eight handles, `k` the parameters of a kernel, `C` a copy, `S` a set, `K` a launch as a node, `H` a call as
/// a node.
const CALLS: &[(&str, &str)] = &[
    ("cuInit", "i"),
    ("cuDeviceGet", "oi"),
    ("cuDeviceGetName", "oii"),
    ("cuDeviceGetAttribute", "oii"),
    ("cuDeviceTotalMem_v2", "oi"),
    ("cuDeviceGetUuid_v2", "oi"),
    ("cuDeviceGetPCIBusId", "oii"),
    ("cuDeviceGetByPCIBusId", "ot"),
    ("cuDeviceCanAccessPeer", "oii"),
    ("cuDeviceGetP2PAttribute", "oiii"),
    ("cuDevicePrimaryCtxRetain", "oi"),
    ("cuDevicePrimaryCtxReset_v2", "i"),
    ("cuDevicePrimaryCtxGetState", "ioo"),
    ("cuCtxCreate_v2", "oii"),
    ("cuCtxDestroy_v2", "h"),
    ("cuCtxSetCurrent", "h"),
    ("cuCtxPushCurrent_v2", "h"),
    ("cuCtxPopCurrent_v2", "o"),
    ("cuCtxGetDevice", "o"),
    ("cuCtxGetLimit", "oi"),
    ("cuCtxSynchronize", ""),
    ("cuCtxEnablePeerAccess", "hi"),
    ("cuCtxDisablePeerAccess", "h"),
    ("cuMemAlloc_v2", "on"),
    ("cuMemAlloc_v2", "ob"),
    ("cuMemAllocAsync", "obs"),
    ("cuMemAllocPitch_v2", "oonni"),
    ("cuMemAllocManaged", "oni"),
    ("cuMemAllocHost_v2", "on"),
    ("cuMemFree_v2", "d"),
    ("cuMemFreeAsync", "ds"),
    ("cuMemFreeHost", "p"),
    ("cuMemHostRegister_v2", "pbi"),
    ("cuMemHostUnregister", "p"),
    ("cuMemHostGetDevicePointer_v2", "opi"),
    ("cuMemHostGetFlags", "op"),
    ("cuMemGetInfo_v2", "oo"),
    ("cuMemGetAddressRange_v2", "ood"),
    ("cuPointerGetAttribute", "oid"),
    ("cuMemcpyHtoD_v2", "dpb"),
    ("cuMemcpyDtoH_v2", "pdb"),
    ("cuMemcpyDtoD_v2", "ddn"),
    ("cuMemcpyHtoDAsync_v2", "dpbs"),
    ("cuMemcpyDtoHAsync_v2", "pdbs"),
    ("cuMemcpyDtoDAsync_v2", "ddns"),
    ("cuMemcpyPeer", "dhdhn"),
    ("cuMemcpy3D_v2", "C"),
    ("cuMemcpy3DAsync_v2", "Cs"),
    ("cuMemsetD8_v2", "din"),
    ("cuMemsetD16_v2", "din"),
    ("cuMemsetD32_v2", "din"),
    ("cuMemsetD8Async", "dins"),
    ("cuMemsetD2D32_v2", "dninn"),
    ("cuModuleLoadData", "om"),
    ("cuModuleLoad", "ot"),
    ("cuModuleUnload", "h"),
    ("cuModuleGetFunction", "oht"),
    ("cuModuleGetGlobal_v2", "ooht"),
    ("cuModuleGetFunctionCount", "oh"),
    ("cuModuleEnumerateFunctions", "oih"),
    ("cuLinkCreate_v2", "ippo"),
    ("cuLinkAddData_v2", "himntipp"),
    ("cuLinkComplete", "hoo"),
    ("cuLinkDestroy", "h"),
    ("cuFuncGetAttribute", "oih"),
    ("cuFuncSetAttribute", "hin"),
    ("cuFuncGetName", "oh"),
    ("cuFuncGetParamInfo", "hioo"),
    ("cuOccupancyMaxActiveBlocksPerMultiprocessor", "ohin"),
    ("cuOccupancyAvailableDynamicSMemPerBlock", "ohii"),
    ("cuLaunchKernel", "hiiiiiiiskp"),
    ("cuLaunchCooperativeKernel", "hiiiiiiisk"),
    ("cuLaunchHostFunc", "sfp"),
    ("cuStreamCreate", "oi"),
    ("cuStreamCreateWithPriority", "oii"),
    ("cuStreamDestroy_v2", "s"),
    ("cuStreamSynchronize", "s"),
    ("cuStreamQuery", "s"),
    ("cuStreamWaitEvent", "shi"),
    ("cuStreamGetCtx", "so"),
    ("cuStreamGetFlags", "so"),
    ("cuStreamWriteValue32_v2", "sdii"),
    ("cuStreamBeginCapture_v2", "si"),
    ("cuStreamEndCapture", "so"),
    ("cuStreamIsCapturing", "so"),
    ("cuStreamGetCaptureInfo_v3", "sooooooo"),
    ("cuStreamBeginCaptureToGraph", "shlpii"),
    ("cuStreamUpdateCaptureDependencies_v2", "slpii"),
    ("cuEventCreate", "oi"),
    ("cuEventRecord", "hs"),
    ("cuEventRecordWithFlags", "hsi"),
    ("cuEventSynchronize", "h"),
    ("cuEventQuery", "h"),
    ("cuEventElapsedTime_v2", "ohh"),
    ("cuEventDestroy_v2", "h"),
    ("cuGraphCreate", "oi"),
    ("cuGraphClone", "oh"),
    ("cuGraphDestroy", "h"),
    ("cuGraphAddEmptyNode", "ohli"),
    ("cuGraphAddKernelNode_v2", "ohliK"),
    ("cuGraphAddMemcpyNode", "ohliCh"),
    ("cuGraphAddMemsetNode", "ohliSh"),
    ("cuGraphAddHostNode", "ohliH"),
    ("cuGraphAddEventRecordNode", "ohlih"),
    ("cuGraphAddEventWaitNode", "ohlih"),
    ("cuGraphAddDependencies_v2", "hllpi"),
    ("cuGraphRemoveDependencies_v2", "hllpi"),
    ("cuGraphDestroyNode", "h"),
    ("cuGraphGetNodes", "hoc"),
    ("cuGraphGetRootNodes", "hoc"),
    ("cuGraphGetEdges_v2", "hoooc"),
    ("cuGraphNodeGetDependencies_v2", "hooc"),
    ("cuGraphNodeGetType", "ho"),
    ("cuGraphNodeFindInClone", "ohh"),
    ("cuGraphInstantiateWithFlags", "ohi"),
    ("cuGraphLaunch", "hs"),
    ("cuGraphUpload", "hs"),
    ("cuGraphExecDestroy", "h"),
    ("cuGraphExecUpdate_v2", "hho"),
    ("cuGraphNodeSetEnabled", "hhi"),
    ("cuGraphExecKernelNodeSetParams_v2", "hhK"),
    ("cuGraphExecMemsetNodeSetParams", "hhSh"),
    ("cuGraphKernelNodeSetParams_v2", "hK"),
    ("cuTensorMapReplaceAddress", "od"),
    ("cuGetProcAddress_v2", "toiio"),
    ("cuGetErrorName", "io"),
    ("cuGetErrorString", "io"),
    ("cuArrayCreate_v2", "op"),
    ("cuMemCreate", "onpi"),
];

/// Which calls a process makes, and how many.
const SEED_VARIABLE: &str = "PTX_EMULATOR_RANDOM_CALLS";
const CALLS_OF_A_PROCESS: usize = 20_000;

/// Bytes of memory of the program, of places for answers, and around them.
const MEMORY: usize = 1 << 16;
const ANSWER: usize = 128;
const GUARD: usize = 256;
const PATTERN: u8 = 0xa7;

const MODULE: &str = "
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .b32 variable;
.visible .entry write(.param .u64 y)
{
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [y];
    st.global.b32 [%d1], 1;
    ret;
}
.visible .entry nothing() { ret; }
";

struct Caller {
    state: u64,
    handles: Vec<u64>,
    addresses: Vec<u64>,
    /// Memory with a guard on both sides.
    memory: Vec<u8>,
    answers: Vec<Vec<u64>>,
    structures: Vec<Vec<u64>>,
    texts: Vec<CString>,
    modules: Vec<CString>,
}

unsafe extern "C" fn called(_: *mut c_void) {}

impl Caller {
    fn new(seed: u64) -> Caller {
        let texts = ["", "write", "nothing", "variable", "cuInit", "/nowhere", "0000:01:00.0", "cuGraphInstantiate"];
        let modules = [MODULE, "", "\x7fELF", ".version 8.0\n.target sm_80\nmistake;"];
        Caller {
            state: seed,
            handles: vec![],
            addresses: vec![],
            memory: vec![PATTERN; GUARD + MEMORY + GUARD],
            answers: vec![],
            structures: vec![],
            texts: texts.map(|text| CString::new(text).unwrap()).into(),
            modules: modules.map(|text| CString::new(text).unwrap()).into(),
        }
    }

    /// SplitMix64, Steele et al. 2014.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() % from.len() as u64) as usize]
    }

    fn handle(&mut self) -> u64 {
        if self.handles.is_empty() || self.next().is_multiple_of(8) {
            return self.pick(&[0, 1, 2, 0x1010, 0xdead_beef, u64::MAX]);
        }
        let handles = self.handles.clone();
        self.pick(&handles)
    }

    fn address(&mut self) -> u64 {
        if self.addresses.is_empty() || self.next().is_multiple_of(8) {
            return self.pick(&[0, 1, 0x7000_0000_0000, 0x0200_0000_0000, u64::MAX, u64::MAX - 64]);
        }
        let addresses = self.addresses.clone();
        self.pick(&addresses).wrapping_add(self.pick(&[0, 0, 0, 4, 3, 4096, u64::MAX]))
    }

    fn bytes(&mut self) -> u64 {
        self.pick(&[0, 1, 4, 100, 4096, 1 << 15, 1 << 31, 1 << 40, 1 << 62, 1 << 63, u64::MAX, u64::MAX - 511])
    }

    fn memory(&mut self) -> u64 {
        if self.next().is_multiple_of(8) { 0 } else { self.memory[GUARD..].as_ptr() as u64 }
    }

    fn structure(&mut self, words: Vec<u64>) -> u64 {
        if self.next().is_multiple_of(16) {
            return 0;
        }
        self.structures.push(words);
        self.structures[self.structures.len() - 1].as_ptr() as u64
    }

    fn answer(&mut self, first: u64) -> u64 {
        if self.next().is_multiple_of(16) {
            return 0;
        }
        let mut place = vec![u64::from_ne_bytes([PATTERN; 8]); (GUARD + ANSWER + GUARD) / 8];
        place[GUARD / 8] = first;
        self.answers.push(place);
        self.answers[self.answers.len() - 1][GUARD / 8..].as_ptr() as u64
    }

    /// One side of a copy: of the devices' memory, or of a kind that is not.
    fn side(&mut self) -> Vec<u64> {
        let small = [0, 0, 1, 4, 64];
        let (x, y, z) = (self.pick(&small), self.pick(&small), self.pick(&small));
        let (kind, address) = (self.pick(&[2, 2, 2, 0, 3, 9]), self.address());
        vec![x, y, z, 0, kind, 0, address, 0, 0, self.bytes(), self.pick(&small)]
    }

    fn argument(&mut self, kind: u8) -> u64 {
        match kind {
            b'o' => self.answer(0),
            b'c' => self.answer(4),
            b'h' => self.handle(),
            b's' => {
                let handle = self.handle();
                self.pick(&[0, handle, handle])
            }
            b'd' => self.address(),
            b'p' => self.memory(),
            b'n' => self.bytes(),
            b'b' => self.pick(&[0, 1, 7, 4096, MEMORY as u64]),
            b'i' => self.pick(&[0, 0, 1, 1, 1, 2, 3, 4, 8, u64::from(u32::MAX), 1 << 31]),
            b't' => match self.next() as usize % (self.texts.len() + 1) {
                0 => 0,
                at => self.texts[at - 1].as_ptr() as u64,
            },
            b'm' => match self.next() as usize % (self.modules.len() + 3) {
                0 => 0,
                at => self.modules[at.saturating_sub(3)].as_ptr() as u64,
            },
            b'f' => self.pick(&[0, called as *const () as u64]),
            b'l' => {
                let handles = (0..8).map(|_| self.handle()).collect();
                self.structure(handles)
            }
            b'k' => {
                let address = self.address();
                let value = self.structure(vec![address; 2]);
                self.structure(vec![value; 4])
            }
            b'C' => {
                let words =
                    [self.side(), self.side(), vec![self.bytes(), self.pick(&[0, 1, 3]), self.pick(&[0, 1, 3])]];
                self.structure(words.concat())
            }
            b'S' => {
                let value = self.pick(&[0, 1, 2, 4, 5]) << 32 | 7;
                let words = vec![self.address(), self.bytes(), value, self.bytes(), self.pick(&[0, 1, 3]), 0];
                self.structure(words)
            }
            b'H' => {
                let words = vec![self.argument(b'f'), 0];
                self.structure(words)
            }
            b'K' => {
                let parameters = self.argument(b'k');
                let words = vec![self.handle(), 1 << 32 | 1, 1 << 32 | 1, 1 << 32 | 1, 0, parameters, 0, 0, 0, 0];
                self.structure(words)
            }
            _ => unreachable!("there is no such kind of argument"),
        }
    }

    /// Checks that nothing was written around places, and takes what was answered for what to ask with next.
    fn look(&mut self, name: &str) {
        let guards = |bytes: &[u8]| bytes.iter().all(|byte| *byte == PATTERN);
        assert!(guards(&self.memory[..GUARD]) && guards(&self.memory[GUARD + MEMORY..]), "{name} wrote around memory");
        for place in std::mem::take(&mut self.answers) {
            let bytes: Vec<u8> = place.iter().flat_map(|word| word.to_ne_bytes()).collect();
            assert!(guards(&bytes[..GUARD]) && guards(&bytes[GUARD + ANSWER..]), "{name} wrote around an answer");
            let answer = place[GUARD / 8];
            let kept = match answer {
                0x7000_0000_0000..0x7100_0000_0000 => &mut self.addresses,
                1..0x1_0000_0000 => &mut self.handles,
                _ => continue,
            };
            if kept.len() < 48 {
                kept.push(answer);
            } else {
                let at = self.state as usize % 48;
                kept[at] = answer;
            }
        }
        self.structures.clear();
    }
}

/// A call with integer arguments: those beyond what a function takes are not looked at.
type Call = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> i32;

/// What the process of a seed does; without one this is no test.
#[test]
fn calls_of_one_process() {
    let Some(seed) = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok()) else { return };
    // SAFETY: the library's initializers do nothing.
    let library = unsafe { Library::open(Some(library()), RTLD_NOW | RTLD_GLOBAL) }.unwrap();
    let find = |name: &str| -> Call {
        // SAFETY: all arguments of these functions are integers or pointers, which a caller may pass more of.
        unsafe { *library.get::<Call>(name.as_bytes()).unwrap_or_else(|_| panic!("there is no {name}")) }
    };
    let calls: Vec<(&str, Call, &[u8])> =
        CALLS.iter().map(|(name, arguments)| (*name, find(name), arguments.as_bytes())).collect();
    let mut caller = Caller::new(seed);
    let mut succeeded = std::collections::BTreeSet::new();
    for number in 0..CALLS_OF_A_PROCESS {
        // Once in a while all is well again.
        let (name, call, kinds) = match number % 100 {
            0 => calls[calls.iter().position(|call| call.0 == "cuDevicePrimaryCtxRetain").unwrap()],
            1 => calls[calls.iter().position(|call| call.0 == "cuDevicePrimaryCtxReset_v2").unwrap()],
            2 => calls[calls.iter().position(|call| call.0 == "cuModuleLoadData").unwrap()],
            _ => calls[(caller.next() % calls.len() as u64) as usize],
        };
        let mut arguments = [0; 12];
        for (argument, kind) in arguments.iter_mut().zip(kinds) {
            *argument = caller.argument(*kind);
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = arguments;
        eprintln!("{number} {name} {:x?}", &arguments[..kinds.len()]);
        // SAFETY: pointers are null or to what the API says is there.
        let result = unsafe { call(a, b, c, d, e, f, g, h, i, j, k, l) };
        assert_ne!(result, 999, "{name} failed inside of the emulator");
        if result == 0 {
            succeeded.insert(name);
        }
        caller.look(name);
        if number % 100 == 0 && caller.handles.last().is_some() {
            let context = *caller.handles.last().unwrap();
            // SAFETY: it takes a handle.
            unsafe { find("cuCtxSetCurrent")(context, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) };
        }
    }
    // The calls are not all refused: most functions did what they are for.
    assert!(succeeded.len() > CALLS.len() * 2 / 3, "only these succeeded: {succeeded:?}");
}

#[test]
fn no_call_harms_the_program() {
    for seed in 1..=3 {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "random_calls::calls_of_one_process", "--nocapture"])
            .env(SEED_VARIABLE, seed.to_string())
            .env("PTX_EMULATOR_DEVICES", "2")
            .env("PTX_EMULATOR_MEMORY", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(20).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        assert!(output.status.success(), "seed {seed}: {}\n{}", output.status, last.join("\n"));
        assert!(!said.contains("panicked"), "seed {seed}: a call panicked");
    }
}
