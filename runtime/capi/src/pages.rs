//! Page allocators.

use tessera_runtime::pages::{Pages, SequenceId};

use crate::model::TesseraCache;
use crate::pointer::{give, place, put_all, reference, reference_mut, slice, take_back};
use crate::status::{Failure, TesseraStatus, guard, guard_value};

/// `tessera_pages`
pub struct TesseraPages(Pages);

/// `tessera_pages_open`
///
/// # Safety
///
/// As `tessera.h` says: there are as many live caches as the count says, `pages` has room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_pages_open(
    caches: *const *const TesseraCache,
    cache_count: usize,
    pages: *mut *mut TesseraPages,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let place = place(pages, "pages")?;
        let caches = slice(caches, cache_count, "caches")?;
        let caches =
            caches.iter().map(|cache| Ok(&reference(*cache, "a cache")?.0)).collect::<Result<Vec<_>, Failure>>()?;
        give(TesseraPages(Pages::of(&caches)?), place);
        Ok(())
    })
}

/// `tessera_pages_close`
///
/// # Safety
///
/// As `tessera.h` says: `pages` is null or from [`tessera_pages_open`], and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_pages_close(pages: *mut TesseraPages) {
    guard(|| {
        // SAFETY: `tessera.h`.
        unsafe { take_back(pages) };
        Ok(())
    });
}

/// `tessera_pages_free`
///
/// # Safety
///
/// As `tessera.h` says: `pages` is null or a live allocator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_pages_free(pages: *const TesseraPages, cache: usize) -> u32 {
    // SAFETY: `tessera.h`.
    guard_value(0, || unsafe { Ok(reference(pages, "pages")?.0.free_pages(cache)) })
}

/// `tessera_sequence_open`
///
/// # Safety
///
/// As `tessera.h` says: `pages` is null or a live allocator that no other thread uses, `sequence` has room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_sequence_open(pages: *mut TesseraPages, sequence: *mut u32) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let place = place(sequence, "sequence")?;
        place.put(reference_mut(pages, "pages")?.0.open().0);
        Ok(())
    })
}

/// `tessera_sequence_close`
///
/// # Safety
///
/// As `tessera.h` says: `pages` is null or a live allocator that no other thread uses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_sequence_close(pages: *mut TesseraPages, sequence: u32) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe { Ok(reference_mut(pages, "pages")?.0.close(SequenceId(sequence))?) })
}

/// `tessera_sequence_append`
///
/// # Safety
///
/// As `tessera.h` says: `pages` is null or a live allocator that no other thread uses, `first` has room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_sequence_append(
    pages: *mut TesseraPages,
    sequence: u32,
    tokens: usize,
    first: *mut i32,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let place = place(first, "first")?;
        place.put(reference_mut(pages, "pages")?.0.append(SequenceId(sequence), tokens)?.start);
        Ok(())
    })
}

/// `tessera_sequence_share`
///
/// # Safety
///
/// As `tessera.h` says: `pages` is null or a live allocator that no other thread uses, the last two have room for a number each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_sequence_share(
    pages: *mut TesseraPages,
    sequence: u32,
    tokens: u32,
    shared_sequence: *mut u32,
    shared: *mut u32,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let (sequence_place, tokens_place) = (place(shared_sequence, "shared_sequence")?, place(shared, "shared")?);
        let pages = &mut reference_mut(pages, "pages")?.0;
        let new = pages.share(SequenceId(sequence), tokens)?;
        tokens_place.put(pages.tokens(new)?);
        sequence_place.put(new.0);
        Ok(())
    })
}

/// `tessera_sequence_rewind`
///
/// # Safety
///
/// As `tessera.h` says: `pages` is null or a live allocator that no other thread uses, `kept` has room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_sequence_rewind(
    pages: *mut TesseraPages,
    sequence: u32,
    tokens: u32,
    kept: *mut u32,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let place = place(kept, "kept")?;
        place.put(reference_mut(pages, "pages")?.0.rewind(SequenceId(sequence), tokens)?);
        Ok(())
    })
}

/// `tessera_pages_table`
///
/// # Safety
///
/// As `tessera.h` says: `pages` is null or a live allocator; there are as many sequences, and as much room, as the counts say; `columns`
/// has room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tessera_pages_table(
    pages: *const TesseraPages,
    cache: usize,
    sequences: *const u32,
    sequence_count: usize,
    entries: *mut i32,
    capacity: usize,
    columns: *mut u64,
) -> TesseraStatus {
    // SAFETY: `tessera.h`.
    guard(|| unsafe {
        let columns = place(columns, "columns")?;
        let pages = &reference(pages, "pages")?.0;
        let sequences = slice(sequences, sequence_count, "sequences")?;
        let sequences: Vec<_> = sequences.iter().map(|sequence| SequenceId(*sequence)).collect();
        let table = pages.table(cache, &sequences)?;
        columns.put(table.shape[1]);
        let needed = table.entries.len();
        if needed > capacity {
            return Err(Failure::argument(format!(
                "the page table has {needed} entries, there is room for {capacity}"
            )));
        }
        put_all(entries, &table.entries, "entries")
    })
}
