//! Node.
mod container;
mod image;
mod pod;
mod status;
