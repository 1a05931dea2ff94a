//! A shared volume passes the contract, alone and as three gateways where every call goes to
//! another one; and what is its own.

mod debris;
mod folders;
mod gateways;
mod interrupted;
mod overtaken;
mod pieces;
mod turns;
