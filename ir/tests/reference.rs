//! The reference page is current.

use std::path::Path;

#[test]
fn ops_md_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("OPS.md");
    let page = tessera_ir::reference_page();
    if std::env::var_os("TESSERA_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "ir/OPS.md is not current; run the test with TESSERA_BLESS=1 to write it");
}

#[test]
fn every_op_explains_itself() {
    for definition in tessera_ir::ops::all() {
        assert!(definition.summary().ends_with(['.', ':']), "{}: {}", definition.op, definition.summary());
        for operand in definition.operands {
            assert!(!operand.doc.is_empty(), "{}: {}", definition.op, operand.name);
        }
        for attribute in definition.attributes {
            assert!(!attribute.doc.is_empty(), "{}: {}", definition.op, attribute.name);
        }
    }
}
