//! Serves a model that was really trained, with the real program, over real sockets.

mod bounds;
mod client;
mod clients;
mod ends;
mod explain;
mod grpc;
mod hostile;
mod model;
mod numbers;
mod rest;
mod server;
