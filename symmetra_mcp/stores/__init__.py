"""Rule stores: where rules, passages and vectors are kept, and where they are matched."""
