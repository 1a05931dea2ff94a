//! Crash safety, proved on a disk whose power is cut after every call ([`super::crashdisk`]).
//!
//! A scene is run once undisturbed, which gives a picture of all there is before and after each
//! of its operations. Then it is run again and again, each time with the power cut after another
//! call, and the brick is opened on what is left: what was acknowledged must be there, and what
//! was under way as before or as after it, whole.

mod faults;
mod late;
mod mount;
mod ops;
mod picture;
mod random;
mod scenarios;
mod scene;
mod unseen;
