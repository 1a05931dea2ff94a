//! Portico's doors: protocols in, protocols out, over the [`fsstore`] waist.

pub mod auth;
pub mod body;
pub mod cli;
pub mod conditions;
pub mod config;
pub mod errors;
pub mod logs;
pub mod metrics;
pub mod posix;
pub mod s3;
pub mod server;
pub mod tls;
pub mod users;
pub mod zerocopy;
