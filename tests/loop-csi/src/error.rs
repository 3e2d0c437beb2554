//! What a call can answer besides success, and its gRPC status code, in one place.

use tonic::Status;

/// A call that was not carried out.
#[derive(Debug)]
pub enum Error {
    /// The request can never succeed as it is.
    Invalid(String),
    /// The volume or snapshot named does not exist.
    NotFound(String),
    /// The name is taken by something with other properties.
    AlreadyExists(String),
    /// The size asked for cannot be had.
    OutOfRange(String),
    /// Another node can do this. csi-provisioner takes this answer as "let the scheduler choose again".
    OtherNode(String),
    /// Something must change first, such as a pod that still uses the volume.
    Precondition(String),
    /// Another call on the same thing is under way.
    Busy(String),
    /// The machine would not do it.
    Machine(anyhow::Error),
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Machine(error)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(why) => Status::invalid_argument(why),
            Error::NotFound(why) => Status::not_found(why),
            Error::AlreadyExists(why) => Status::already_exists(why),
            Error::OutOfRange(why) => Status::out_of_range(why),
            Error::OtherNode(why) => Status::resource_exhausted(why),
            Error::Precondition(why) => Status::failed_precondition(why),
            Error::Busy(why) => Status::aborted(why),
            Error::Machine(error) => Status::internal(format!("{error:#}")),
        }
    }
}
