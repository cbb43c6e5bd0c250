"""From folders of pictures to rows and a segment: walking, training when needed, embedding, storing."""
