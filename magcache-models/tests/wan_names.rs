//! The table of native Wan tensor names against the converter in diffusers.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use magcache_models::wan::names;

#[test]
fn native_names_are_those_of_the_converter_in_diffusers() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wan_native_names.json");
    let pairs: HashMap<String, String> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    for (native, diffusers) in &pairs {
        assert_eq!(names::to_diffusers(native).as_ref(), Some(diffusers));
        assert_eq!(names::to_native(diffusers).as_ref(), Some(native));
    }
    assert_eq!(pairs.len(), 55);
}
