{{style}}{{script}}{{hello}}
