//! What programs ask for that the emulator does not have.

use crate::error::unsupported;

/// Functions that only say that they are not there.
macro_rules! missing {
    ($($name:ident)*) => {
        calls! {
            $(
                /// Not there.
                fn $name() {
                    Err(unsupported(stringify!($name)))
                }
            )*
        }
    };
}

missing! {
    cuArrayCreate_v2 cuArray3DCreate_v2 cuArrayDestroy cuMemcpy2D_v2 cuMemcpy2DAsync_v2 cuMemcpy3D_v2 cuMemcpy3DAsync_v2
    cuLinkCreate_v2 cuLinkAddData_v2 cuLinkAddFile_v2 cuLinkComplete cuLinkDestroy cuLibraryLoadData cuLibraryLoadFromFile
    cuLibraryUnload cuLibraryGetKernel cuLibraryGetModule cuKernelGetFunction cuTexObjectCreate cuTexObjectDestroy
    cuSurfObjectCreate cuSurfObjectDestroy cuMemCreate cuMemRelease cuMemMap cuMemUnmap cuMemAddressReserve cuMemAddressFree
    cuMemSetAccess cuMemGetAllocationGranularity cuMemExportToShareableHandle cuMemImportFromShareableHandle
    cuMemPoolCreate cuMemPoolDestroy cuMemPoolSetAttribute cuMemPoolGetAttribute cuMemPoolTrimTo cuDeviceGetMemPool
    cuDeviceGetDefaultMemPool cuDeviceSetMemPool cuMemAllocFromPoolAsync cuIpcGetMemHandle cuIpcOpenMemHandle_v2
    cuIpcCloseMemHandle cuIpcGetEventHandle cuIpcOpenEventHandle cuGraphAddKernelNode_v2 cuGraphAddMemcpyNode
    cuGraphAddMemsetNode cuGraphAddEmptyNode cuGraphExecUpdate_v2 cuGraphClone cuMulticastCreate cuMulticastAddDevice
    cuMulticastBindMem cuMemAdvise cuMemPrefetchAsync cuStreamAddCallback cuStreamBatchMemOp_v2 cuStreamWaitValue32_v2
    cuStreamWriteValue32_v2 cuProfilerStart cuProfilerStop
}
