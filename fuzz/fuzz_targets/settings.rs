//! Records of `webhook-settings`: what is accepted is written as it was read, and no error shows a secret.
#![no_main]

use bundlehook::wire::settings::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    match decode(value) {
        Ok(webhook) => {
            let encoded = encode(&webhook);
            let read = decode(encoded.to_string().as_bytes()).expect("what was written reads back");
            assert_eq!(encode(&read), encoded);
            assert!(!format!("{webhook:?}").contains("whsec_"), "secrets do not show");
        }
        Err(poison) => assert!(!poison.detail.is_empty()),
    }
});
