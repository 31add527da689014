//! The rules of the house, as a test.
#![forbid(unsafe_code)]

use falsify::{launch, tidy};

#[test]
fn the_house_is_tidy() {
    let root = launch::root().expect("the tests run inside the source tree");
    let findings = tidy::run(&root);
    let text = tidy::render(&findings);
    assert!(findings.is_empty(), "\n{text}");
}
