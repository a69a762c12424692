"""Clusters: what is sent to the nodes of Ray, by which store, and how they answer."""
