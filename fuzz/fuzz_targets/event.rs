//! Records of `message-events`: whatever they hold, they are an event, a skip or a dead letter; and an event's message
//! outlives its way through the log of a window.
#![no_main]

use bundlehook::{
    model::time::Millis,
    wire::{
        body,
        event::{Decoded, decode},
        window_log::{self, Frame, LoggedMessage},
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    let Ok(Decoded::Event(event)) = decode(Some(value)) else { return };
    let single: serde_json::Value = serde_json::from_slice(&body::single(&event)).expect("a body is JSON");
    let object = serde_json::to_string(&event.message).expect("it is JSON");
    assert_eq!(body::message_size(&event.message), object.len());
    let object: serde_json::Value = serde_json::from_str(&object).expect("an object is JSON");
    assert_eq!(single["message"], object);
    let frame = Frame::MessageV2(LoggedMessage::new(&event, 7, Millis(0)));
    let mut log = window_log::encode(&frame);
    log.extend(window_log::encode(&frame));
    let frames = window_log::decode(&log).expect("what was written reads back");
    assert_eq!(frames.len(), 2);
    for frame in frames {
        let Frame::MessageV2(message) = frame else { panic!("it is another frame") };
        assert_eq!(message.message(), event.message);
    }
});
