//! Kafka's id of a topic, which tells a topic from another one that was created later under the same name.
//!
//! librdkafka has it (`DescribeTopics`), the crate `rdkafka` has not, hence the direct calls. See
//! `docs/decisions/0002-direct-calls-of-librdkafka.md`.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char},
    ptr,
    time::Duration,
};

use rdkafka::{
    ClientContext,
    bindings::{self, rd_kafka_resp_err_t as NativeError},
    client::Client,
};

/// Why a topic's id could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopicIdError {
    /// The name holds a NUL.
    #[error("`{0}` is not a topic's name")]
    Name(String),
    /// The broker did not answer, or with an error.
    #[error("the id of topic `{topic}` could not be read: {problem}")]
    Failed { topic: String, problem: String },
}

/// Asks the brokers for the id of a topic: 22 characters of base64. Blocks.
///
/// # Errors
/// [`TopicIdError`] if the topic is unknown or no broker answers in time.
pub fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    limit: Duration,
) -> Result<String, TopicIdError> {
    let name = CString::new(topic).map_err(|_| TopicIdError::Name(topic.to_owned()))?;
    let failed = |problem: String| TopicIdError::Failed { topic: topic.to_owned(), problem };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    // SAFETY: `client` keeps the native handle alive for the whole block. Every object that is created here is
    // destroyed here once, after its last use; pointers into a result are not used after its event is destroyed;
    // null results are checked before they are read.
    unsafe {
        let handle = client.native_ptr();
        let topics = bindings::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let queue = bindings::rd_kafka_queue_new(handle);
        let options = bindings::rd_kafka_AdminOptions_new(
            handle,
            bindings::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        bindings::rd_kafka_AdminOptions_set_request_timeout(options, limit, ptr::null_mut(), 0);
        bindings::rd_kafka_DescribeTopics(handle, topics, options, queue);
        let event = bindings::rd_kafka_queue_poll(queue, limit);
        let result = if event.is_null() { Err("no answer".to_owned()) } else { read_event(event) };
        if !event.is_null() {
            bindings::rd_kafka_event_destroy(event);
        }
        bindings::rd_kafka_AdminOptions_destroy(options);
        bindings::rd_kafka_queue_destroy(queue);
        bindings::rd_kafka_TopicCollection_destroy(topics);
        result.map_err(failed)
    }
}

/// Reads the id of the only topic of an answer.
///
/// # Safety
/// `event` must be a live event of librdkafka.
unsafe fn read_event(event: *mut bindings::rd_kafka_event_t) -> Result<String, String> {
    // SAFETY: as the caller promises; the pointers live as long as the event.
    unsafe {
        if bindings::rd_kafka_event_error(event) != NativeError::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(bindings::rd_kafka_event_error_string(event)));
        }
        let result = bindings::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err("an answer of another kind".to_owned());
        }
        let mut count = 0;
        let topics = bindings::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count != 1 {
            return Err(format!("{count} topics in the answer, expected 1"));
        }
        let description = *topics;
        let error = bindings::rd_kafka_TopicDescription_error(description);
        if bindings::rd_kafka_error_code(error) != NativeError::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text(bindings::rd_kafka_error_string(error)));
        }
        let id = bindings::rd_kafka_TopicDescription_topic_id(description);
        Ok(text(bindings::rd_kafka_Uuid_base64str(id)))
    }
}

/// Copies a text of librdkafka.
///
/// # Safety
/// `text` must be null or a live, NUL-terminated string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
