//! What the other tests rely on when they ask for a broker, break it, or put something in front of it.

mod amqp;
mod cluster;
mod faults;
mod operators;
mod proxy;
mod sharing;
