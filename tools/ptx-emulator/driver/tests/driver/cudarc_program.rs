//! A program with cudarc, in this process.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::library;

const SCALE: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 y, .param .f32 factor, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .f32 %f<3>;
    .reg .b64 %d<3>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    ld.param.u32 %r5, [n];
    setp.ge.u32 %p, %r4, %r5;
    @%p ret;
    ld.param.u64 %d1, [y];
    mul.wide.u32 %d2, %r4, 4;
    add.u64 %d1, %d1, %d2;
    ld.param.f32 %f1, [factor];
    ld.global.f32 %f2, [%d1];
    mul.f32 %f2, %f1, %f2;
    st.global.f32 [%d1], %f2;
    ret;
}
";

#[test]
fn cudarc_launches_kernels_and_graphs() {
    // cudarc asks the loader for libcuda.so.1, and gets the one that is loaded under this name.
    // SAFETY: the library's initializers do nothing; it stays loaded.
    let loaded = unsafe { Library::open(Some(library()), RTLD_NOW | RTLD_GLOBAL) }.unwrap();
    std::mem::forget(loaded);

    let context = CudaContext::new(0).unwrap();
    assert!(context.name().unwrap().starts_with("Emulated"));
    let module = context.load_module(Ptx::from_src(SCALE)).unwrap();
    let scale = module.load_function("scale").unwrap();
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let numbers: Vec<f32> = (0..1000).map(|number| number as f32).collect();
    let mut y = first.clone_htod(&numbers).unwrap();
    let count = numbers.len() as u32;
    let config = LaunchConfig::for_num_elems(count);

    // SAFETY: the arguments are those of the kernel.
    unsafe { first.launch_builder(&scale).arg(&mut y).arg(&2f32).arg(&count).launch(config) }.unwrap();
    second.join(&first).unwrap();
    // SAFETY: as above.
    unsafe { second.launch_builder(&scale).arg(&mut y).arg(&3f32).arg(&count).launch(config) }.unwrap();
    let scaled = |factor: f32| numbers.iter().map(|number| factor * number).collect::<Vec<_>>();
    assert_eq!(second.clone_dtoh(&y).unwrap(), scaled(6.0));

    // SAFETY: all work of the graph is in one stream.
    unsafe { context.disable_event_tracking() };
    second.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    // SAFETY: as above.
    unsafe { second.launch_builder(&scale).arg(&mut y).arg(&2f32).arg(&count).launch(config) }.unwrap();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = second.end_capture(flags).unwrap().expect("something was captured");
    assert_eq!(second.clone_dtoh(&y).unwrap(), scaled(6.0));
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    assert_eq!(second.clone_dtoh(&y).unwrap(), scaled(48.0));

    let refused = context.load_module(Ptx::from_src(".version 8.0\n.target sm_80\nmistake;")).unwrap_err();
    assert_eq!(refused.0, sys::CUresult::CUDA_ERROR_INVALID_PTX);
}
