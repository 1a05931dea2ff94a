//! Portico's doors: protocols in, protocols out, over the [`fsstore`] waist.

pub mod conditions;
