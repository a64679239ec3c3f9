//! What only a database server brings: settings, rights, and connections that get lost.
