//! The role `dev`: all roles in one process with librdkafka's in-process broker and a `redis-server` of its own.
