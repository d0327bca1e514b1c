//! The folder of what was compiled before.

use std::path::PathBuf;

/// `$TESSERA_CACHE`, else `tessera` in `$XDG_CACHE_HOME`, else `~/.cache/tessera`; `None` if none of them is set.
pub fn folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("TESSERA_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("tessera")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/tessera")))
}
