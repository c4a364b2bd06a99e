//! Leave: the connection gets nothing more of the scope.

use crate::ports::LiveSubscription;
use chatify_domain::Scope;

/// Leaving a scope that was never joined is no error.
pub(crate) fn leave(scope: &Scope, subscription: &dyn LiveSubscription) {
    subscription.abandon(scope);
}
