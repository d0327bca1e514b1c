//! Properties on random graphs.
