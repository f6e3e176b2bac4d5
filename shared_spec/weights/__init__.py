"""Arrays under canonical names: how they are drawn, adapted, folded, and what is known of them."""
