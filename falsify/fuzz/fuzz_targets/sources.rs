//! What users, journals and manifests say of models: each is understood or refused, and nothing that was understood leads
//! out of the folder that it is for.
#![no_main]

use std::path::{Component, Path};

use apr_cli::source::cache::Manifest;
use apr_cli::source::name::{Address, FileName, Name, parse};
use apr_cli::source::{journal, pacha};
use libfuzzer_sys::fuzz_target;

fn stays_below(file: &FileName) {
    let below = file.below(Path::new("folder"));
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
    assert!(below.components().all(plain) && below.starts_with("folder") && below.components().count() > 1);
}

fuzz_target!(|data: &[u8]| {
    if let Some((head, blocks)) = journal::parse(data) {
        assert_eq!(blocks.len(), head.blocks());
    }
    for file in Manifest::parse(data).iter().flat_map(|m| &m.files) {
        stays_below(&FileName::parse(&file.name).unwrap());
    }
    if let Some(model) = pacha::Model::parse(data) {
        model.files.iter().for_each(|part| stays_below(&FileName::parse(&part.name).unwrap()));
        assert_eq!(model.digest().len(), 64);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let from = Address::parse("https://host/a/b").unwrap();
    if let Ok(to) = from.join(text) {
        assert!(to.as_str().starts_with("http") && !to.host().is_empty() && to.as_str().starts_with(to.origin()));
    }
    match parse(Path::new(text)) {
        Ok(Name::Hub(name)) => {
            name.file.iter().for_each(stays_below);
            assert_eq!(parse(Path::new(&name.to_string())).unwrap(), Name::Hub(name));
        }
        Ok(Name::Url(address)) => {
            address.file_name().iter().for_each(stays_below);
            assert!(address.as_str().bytes().all(|b| b.is_ascii_graphic()));
        }
        Ok(Name::Registry(name)) => {
            assert!([&name.name, &name.tag].iter().all(|w| FileName::parse(w).is_some()));
        }
        Ok(Name::Path(_)) => {}
        Err(error) => assert!(!error.to_string().contains(|c: char| c.is_control())),
    }
});
