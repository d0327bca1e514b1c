//! In what pages the system has mapped memory.

/// How many bytes of a mapping of a file are mapped in huge pages; `None` if the system does not say.
pub(super) fn bytes_in_huge_pages(mapping: &[u8]) -> Option<u64> {
    bytes_of_mapping(&std::fs::read_to_string("/proc/self/smaps").ok()?, mapping.as_ptr() as usize)
}

/// The same of the mapping that starts at an address, from the text of Linux's `smaps`.
fn bytes_of_mapping(smaps: &str, start: usize) -> Option<u64> {
    let header = format!("{start:x}-");
    let mut lines = smaps.lines().skip_while(|line| !line.trim_start_matches('0').starts_with(&header));
    let amount = lines.find_map(|line| line.strip_prefix("FilePmdMapped:"))?;
    let kibibytes: u64 = amount.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_it_of_every_mapping() {
        let smaps = "00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/a\nSize: 328 kB\nFilePmdMapped:         0 kB\n\
            7f0000000000-7f0040000000 r--s 00000000 08:02 9 /model.safetensors\nRss: 4096 kB\nFilePmdMapped:      2048 kB\n";
        assert_eq!(bytes_of_mapping(smaps, 0x7f00_0000_0000), Some(2 << 20));
        assert_eq!(bytes_of_mapping(smaps, 0x40_0000), Some(0));
        assert_eq!(bytes_of_mapping(smaps, 0x1000), None);
    }
}
