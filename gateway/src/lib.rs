//! Portico's doors: protocols in, protocols out, over the [`fsstore`] waist.

pub mod auth;
pub mod body;
pub mod conditions;
pub mod errors;
pub mod s3;
pub mod users;
